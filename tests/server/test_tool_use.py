"""Which form of calls a model is taken to write, and what a forced call will need of it."""

import json

import pytest

from flexquant.server.tools.call_format import CallFormat
from flexquant.server.tools.call_parser import CallArguments, CallStart
from flexquant.server.tools.fields import Tool
from flexquant.server.tools.formats import format_of
from flexquant.server.tools.hermes import HERMES
from flexquant.server.tools.llama import LLAMA
from flexquant.server.tools.mistral import MISTRAL
from flexquant.server.tools.tool_use import ToolUse

F = Tool.model_validate({"type": "function", "function": {"name": "f"}})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ tools }} {{ '<tool_call>' }}", HERMES),
        ("{{ '[TOOL_CALLS] [' }}", MISTRAL),
        ("{{ '<|python_tag|>' }}", LLAMA),
        ("""{{ '{"name": function name, "parameters": dictionary}' }}""", LLAMA),
        ("{{ '<tool_call><function=' }}", None),
        ("{{ '[TOOL_CALLS]f[ARGS]{}' }}", None),
        ("{{ tools | tojson }}", None),
    ],
)
def test_the_template_shows_the_form(template: str, expected: CallFormat | None) -> None:
    assert format_of(template) is expected


@pytest.mark.parametrize(("form", "lead"), [(HERMES, "<tool_call>"), (MISTRAL, "[TOOL_CALLS]["), (LLAMA, "")])
def test_a_forced_call_begins_in_the_prompt(form: CallFormat, lead: str) -> None:
    use = ToolUse({"f": F}, form, forced=True)
    assert use.lead == lead
    assert ToolUse({"f": F}, form).lead == ""
    parser = use.parser()
    call = json.dumps({"name": "f", "arguments": {"a": [1]}})
    assert parser.push(call) + parser.finish() == [CallStart(0, "f"), CallArguments(0, '{"a": [1]}')]
