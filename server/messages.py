"""The turns of a conversation, as requests have them and as chat templates expect them."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from flexquant.server.fields import Fields, said


class TextPart(Fields):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    """What a call of an earlier answer called."""

    name: str
    arguments: str = Field(description="A JSON object, as the model spelled it.")

    def for_template(self) -> dict[str, Any]:
        """Name and arguments; these are an object, as templates expect, or text if the model made a mistake there."""
        return {"name": self.name, "arguments": _object(self.arguments or "{}")}


class ToolCall(Fields):
    """A call of an earlier answer."""

    id: str
    type: Literal["function"]
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates expect it."""
        return {"id": self.id, "type": self.type, "function": self.function.for_template()}


class Message(Fields):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        str | list[TextPart] | None,
        said("Input should be a string or a list of text parts; this version takes no other kind"),
    ] = Field(default=None, description="Only an assistant's message that has tool_calls may be without.")
    name: str | None = None
    tool_calls: list[ToolCall] | None = Field(default=None, description="Of an assistant.")
    tool_call_id: str | None = Field(default=None, description="Of a tool's result: the call that it belongs to.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool_calls", "Only messages of the assistant have tool_calls")
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("content", "Message should have content")
        if self.role == "tool" and self.tool_call_id is None:
            raise PydanticCustomError("tool_call_id", "Message of a tool should have the tool_call_id that it answers")
        return self

    @property
    def text(self) -> str | None:
        """The content as one string."""
        return "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it; "developer" is OpenAI's newer word for "system".

        As in transformers, what is null is not there.
        """
        calls = [call.for_template() for call in self.tool_calls or ()]
        fields: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.text,
            "name": self.name or None,
            "tool_calls": calls or None,
            "tool_call_id": self.tool_call_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _object(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
