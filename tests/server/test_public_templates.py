"""Our prompts are those of transformers' `apply_chat_template`, token by token, or both refuse the conversation.

The templates are written after the public descriptions of the formats; each says which. They use what public templates
use of jinja2.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import transformers
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError, UndefinedError

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.api_types import ChatRequest
from flexquant.server.chat_template import ChatTemplate
from flexquant.server.tools.formats import format_of
from support.fake_model import DOCS_LLAMA

Json = dict[str, Any]
FOLDER: Final = DOCS_LLAMA.parent / "chat_templates"
TEMPLATES: Final = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.jinja"))}
SPECIAL: Final = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"),
    *(
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
        "<start_of_turn>",
    ),
    *("<end_of_turn>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
)
IDS: Final = ("aB3dE6gH9", "zzzzzzzzz", "call_1")

texts = st.lists(
    st.text(max_size=8)
    | st.sampled_from([*SPECIAL[:6], " ", "\n", "{{ 7 * 7 }}", "{% if %}", "</s>", "<|user|>", "東京"]),
    max_size=4,
).map("".join)
names = st.from_regex("[a-zA-Z0-9_.-]{1,8}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(texts, values, max_size=3)
functions: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"name": names}, optional={"description": texts, "parameters": objects}
)
tools: st.SearchStrategy[list[Json]] = st.lists(
    st.builds(lambda function: {"type": "function", "function": function}, functions),
    max_size=3,
    unique_by=lambda tool: str(tool["function"]["name"]),
)
results = st.builds(
    lambda text, id_: {"role": "tool", "content": text, "tool_call_id": id_}, texts, st.sampled_from(IDS)
)
callings = st.builds(
    lambda content, made: {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for id_, name, arguments in made
        ],
    },
    st.none() | texts,
    st.lists(st.tuples(st.sampled_from(IDS), names, objects), min_size=1, max_size=2),
)


def said(role: str) -> st.SearchStrategy[Json]:
    return st.builds(lambda text: {"role": role, "content": text}, texts)


rounds = st.lists(
    st.tuples(said("user"), said("assistant")).map(list)
    | st.tuples(said("user"), callings, results, said("assistant")).map(list)
    | st.tuples(said("user"), callings, results, results, said("assistant")).map(list),
    max_size=3,
).map(lambda found: [message for each in found for message in each])
orderly = st.builds(
    lambda system, before, last: [*system, *before, last], st.lists(said("system"), max_size=1), rounds, said("user")
)
disorderly = st.lists(said("user") | said("assistant") | said("system") | callings | results, min_size=1, max_size=5)
conversations = orderly | orderly | disorderly


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer of docs-llama with the special tokens of the templates."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(DOCS_LLAMA)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)}, replace_extra_special_tokens=False)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(theirs: Any) -> Tokenizer:
    return Tokenizer.open(Path(theirs.name_or_path))


def by_transformers(
    tokenizer: Any, template: str, messages: Sequence[Json], given: Sequence[Json], variables: Json
) -> list[int] | None:
    """Its tokens, with arguments as the objects that its documentation asks for; None if it refuses."""
    parsed = json.loads(json.dumps(list(messages)))
    for message in parsed:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    try:
        ids = tokenizer.apply_chat_template(
            parsed,
            chat_template=template,
            tools=list(given) or None,
            add_generation_prompt=True,
            return_dict=False,
            **variables,
        )
    except (TemplateError, UndefinedError, TypeError):
        return None
    return list(ids)


def by_us(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Json], given: Sequence[Json], variables: Json
) -> list[int] | None:
    request = ChatRequest.model_validate({"messages": messages, "tools": given, "chat_template_kwargs": variables})
    try:
        text = template.render(
            [message.for_template() for message in request.messages],
            tools=[tool.for_template() for tool in request.tools or ()],
            variables=request.chat_template_kwargs,
        )
    except ApiError as error:
        if "more work" in error.message:
            raise
        return None
    return tokenizer.encode(text, special=True, bos=False)


def test_there_are_ten() -> None:
    assert len(TEMPLATES) >= 10
    assert all(source.startswith("{#- ") and "describe" in source.splitlines()[0] for source in TEMPLATES.values())


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations, given_tools=tools, thinking=st.booleans())
@settings(deadline=None, max_examples=25)
def test_prompts_are_those_of_transformers(
    theirs: Any,
    ours: Tokenizer,
    name: str,
    messages: list[Json],
    given_tools: list[Json],
    thinking: bool,
) -> None:
    source = TEMPLATES[name]
    template = ChatTemplate(source, {"bos_token": ours.bos_token, "eos_token": ours.eos_token})
    given_tools = given_tools if format_of(source) else []
    variables: Json = {} if thinking else {"enable_thinking": False, "date_string": "1 Apr 2025"}
    expected = by_transformers(theirs, source, messages, given_tools, variables)
    event("refused" if expected is None else "rendered")
    assert by_us(ours, template, messages, given_tools, variables) == expected


TURN: Final[list[Json]] = [
    {"role": "user", "content": "How warm is it in Bonn?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": IDS[0], "type": "function", "function": {"name": "f", "arguments": '{"city": "Bonn"}'}},
        ],
    },
    {"role": "tool", "tool_call_id": IDS[0], "content": "12"},
]
TOOL: Final[Json] = {"type": "function", "function": {"name": "f", "description": "The weather", "parameters": {}}}


@pytest.mark.parametrize("name", [name for name, source in TEMPLATES.items() if format_of(source)])
def test_tools_calls_and_results_are_in_the_prompt(theirs: Any, ours: Tokenizer, name: str) -> None:
    """Neither refuses what such a template is for."""
    template = ChatTemplate(TEMPLATES[name], {"bos_token": ours.bos_token, "eos_token": ours.eos_token})
    found = by_us(ours, template, TURN, [TOOL], {})
    assert found is not None
    assert found == by_transformers(theirs, TEMPLATES[name], TURN, [TOOL], {})
    text = ours.decode(found)
    for part in ("The weather", '{"city": "Bonn"}', "12"):
        assert part in text


def test_the_forms_of_calls_are_recognized() -> None:
    found = {name: form.name for name, source in TEMPLATES.items() if (form := format_of(source))}
    assert found == {"llama-3.1-tools": "Llama", "mistral-v3-tools": "Mistral", "qwen-2.5-tools": "Hermes"}
