"""Chat templates: a model's own jinja2 programs that turn messages into a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from jinja2 import Template, TemplateError, meta

from flexquant.engine.errors import CheckpointError
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.template_budget import begin
from flexquant.server.template_sandbox import Sandbox

_OURS: Final = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")
"""Variables that a request cannot replace."""


class ChatTemplate:
    """The compiled chat templates of a model.

    Args:
        source: The jinja2 source.
        tokens: `bos_token` and `eos_token`, as text.
        tool_source: The source of a template of its own for conversations with tools, if the model has one.

    Raises:
        CheckpointError: A source is not a template that the sandbox runs.
    """

    def __init__(self, source: str, tokens: Mapping[str, str | None], tool_source: str | None = None) -> None:
        self._tokens = {name: text or "" for name, text in tokens.items()}
        self.tool_source = source if tool_source is None else tool_source
        """Of the template that writes conversations with tools."""
        self._template = _compile(source)
        self._tool_template = self._template if tool_source is None else _compile(tool_source)
        self._takes_tools = "tools" in meta.find_undeclared_variables(Sandbox().parse(self.tool_source))

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """The templates that come with a tokenizer; None if there are none."""
        if tokenizer.chat_template is None:
            return None
        tokens = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
        return cls(tokenizer.chat_template, tokens, tokenizer.tool_template)

    def check_tools(self) -> None:
        """Raise ApiError (400) unless the model can be told of tools."""
        if not self._takes_tools:
            raise ApiError(
                400,
                "tools: this model's chat template does not take tools, so the model would not learn of them; leave "
                'them out, or send tool_choice: "none".',
                param="tools",
                code="unsupported",
            )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, ending where the assistant's answer begins.

        Args:
            messages: As `Message.for_template` has them.
            tools: What the model is told that it may call.
            variables: Further ones of the template.

        Raises:
            ApiError: 400, the template refuses the messages or exceeds its limits, it cannot be given tools, or a
                variable is ours.
        """
        if tools:
            self.check_tools()
        given = dict(variables or {})
        taken = [name for name in given if name in _OURS or name in self._template.globals]
        if taken:
            raise ApiError(400, f"chat_template_kwargs: {taken[0]} cannot be replaced.", param="chat_template_kwargs")
        template = self._tool_template if tools else self._template
        try:
            begin(sum(len(str(part)) for part in (*messages, *tools, given)))
            ours = {
                "messages": list(messages),
                # As transformers has it: they are always there.
                "tools": list(tools) or None,
                "documents": None,
                "add_generation_prompt": True,
            }
            return template.render(given | self._tokens | ours)
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ApiError(
                400, f"The model's chat template refuses these messages: {error}.", param="messages"
            ) from error


def _compile(source: str) -> Template:
    try:
        return Sandbox().from_string(source)
    # Python's own compiler has limits, too, and says so in its own ways.
    except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
        raise CheckpointError(f"the model's chat template cannot be used: {error}") from error
