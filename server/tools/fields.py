"""What requests say about tools, in OpenAI's form."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from flexquant.server.api_error import ApiError
from flexquant.server.fields import Fields, said

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class ToolFunction(Fields):
    """A function that a model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of its arguments.")


class Tool(Fields):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: ToolFunction
    _given: dict[str, Any] = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        tool = handler(value)
        if isinstance(value, dict):
            tool._given = value
        return tool

    def for_template(self) -> dict[str, Any]:
        """The tool as it was given, every field in its order: templates write it into the prompt."""
        return self._given


class FunctionName(Fields):
    """A function by its name."""

    name: str


class NamedTool(Fields):
    """A tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool,
    said(
        'Input should be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}; this version '
        "takes no other kind"
    ),
]


def tools_by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """The tools of a request.

    Raises:
        ApiError: 400, two of them have one name.
    """
    found: dict[str, Tool] = {}
    for place, tool in enumerate(tools):
        if found.setdefault(tool.function.name, tool) is not tool:
            raise ApiError(
                400,
                f"tools.{place}.function.name: another tool is called {tool.function.name}, too.",
                param=f"tools.{place}.function.name",
            )
    return found
