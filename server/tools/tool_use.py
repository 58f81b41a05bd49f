"""How the tools of a request may be called in its answer."""

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.api_types import ChatRequest
from flexquant.server.chat_template import ChatTemplate
from flexquant.server.tools.call_format import CallFormat
from flexquant.server.tools.call_parser import CallParser
from flexquant.server.tools.fields import NamedTool, Tool, tools_by_name
from flexquant.server.tools.formats import FORMATS, format_of

_ALPHABET: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What an answer may call, and how the model writes that.

    Args:
        tools: By name; at least one.
        form: How the model writes calls.
        single: At most one call is told.
        forced: The answer has to be a call.
    """

    tools: Mapping[str, Tool]
    form: CallFormat
    single: bool = False
    forced: bool = False
    forced_name: str | None = None

    @property
    def lead(self) -> str:
        """What the prompt ends with, so that the answer begins within a call."""
        return self.form.before_call if self.forced else ""

    def parser(self) -> CallParser:
        """For one answer."""
        form = self.form.of_forced_call if self.forced else self.form
        return CallParser(form, self.tools, single=self.single)

    def new_id(self) -> str:
        """An id for a call, such as the model's template takes back."""
        return self.form.id_prefix + "".join(secrets.choice(_ALPHABET) for _ in range(self.form.id_length))

    def marks(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Special tokens that mark calls: without their text an answer could not be read."""
        return tokenizer.special_ids({self.form.opening, self.form.last})


def tool_use(body: ChatRequest, template: ChatTemplate) -> ToolUse | None:
    """How the answer to `body` may call tools; None if it may not.

    Raises:
        ApiError: 400, the model cannot be given tools, or `tool_choice` cannot be done.
    """
    tools, choice = tools_by_name(body.tools or ()), body.tool_choice
    if choice == "none" or (not tools and choice in (None, "auto")):
        return None
    if not tools:
        raise ApiError(400, "tool_choice: there are no tools to call.", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in tools:
        raise ApiError(
            400,
            f"tool_choice: no tool is called {choice.function.name!r}; there are {', '.join(tools)}.",
            param="tool_choice.function.name",
        )
    return ToolUse(
        tools,
        _format(template),
        single=body.parallel_tool_calls is False,
        forced=choice not in (None, "auto"),
        forced_name=choice.function.name if isinstance(choice, NamedTool) else None,
    )


def _format(template: ChatTemplate) -> CallFormat:
    template.check_tools()
    form = format_of(template.tool_source)
    if form is None:
        known = ", ".join(known.name for known, _ in FORMATS)
        raise ApiError(
            400,
            f"tools: this model writes calls in a form that this version does not read (it reads those of {known}); "
            'send tool_choice: "none".',
            param="tools",
            code="unsupported",
        )
    return form
