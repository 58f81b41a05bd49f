"""The fields by which a request says what its answer has to be.

`response_format` is OpenAI's. `structured_outputs` has vLLM's name for what goes beyond it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from flexquant.server.api_error import ApiError
from flexquant.server.fields import Fields

OTHER_SPELLINGS: Final[Mapping[str, tuple[str, object]]] = {
    "guided_json": ("response_format", {}),  # vLLM, once
    "guided_regex": ("structured_outputs.regex", ""),
    "guided_choice": ("structured_outputs.choice", []),
    "guided_grammar": ("structured_outputs.grammar", ""),
    "json_schema": ("response_format", {}),  # tabbyAPI, llama.cpp, SGLang
    "regex_pattern": ("structured_outputs.regex", ""),  # tabbyAPI
    "grammar_string": ("structured_outputs.grammar", ""),
    "grammar": ("structured_outputs.grammar", ""),  # llama.cpp
    "regex": ("structured_outputs.regex", ""),  # SGLang
    "ebnf": ("structured_outputs.grammar", ""),
}
"""What other servers call these fields, what they are called here, and the value that means "off"."""

_EXAMPLE: Final = '{"type": "json_schema", "json_schema": {"name": "answer", "schema": {...}}}'


class NamedSchema(Fields):
    """A JSON schema, as OpenAI's API wraps it."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema", description="JSON Schema, draft 2020-12.")
    strict: bool | None = Field(default=None, description="Without effect: the schema is always kept.")


class ResponseFormat(Fields):
    """What the answer is: any text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_loose_schema(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("schema") is not None:
            raise ApiError(400, f"response_format.schema: it belongs into {_EXAMPLE}.", param="response_format")
        return value

    @model_validator(mode="after")
    def _schema_if_named(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            said = f"type {self.type!r} {'needs' if self.json_schema is None else 'has no'} json_schema"
            raise ApiError(400, f"response_format: {said}; write {_EXAMPLE}.", param="response_format")
        return self


class StructuredOutputs(Fields):
    """What the answer is, beyond JSON: exactly one of these."""

    model_config = ConfigDict(extra="forbid")

    regex: str | None = Field(default=None, description="A regular expression for all of it, in Rust's syntax.")
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, description="One of these texts."
    )
    grammar: str | None = Field(default=None, description="A grammar in llguidance's variant of Lark.")

    @model_validator(mode="before")
    @classmethod
    def _no_json(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        for name in ("json", "json_object"):
            if value.get(name):
                raise ApiError(400, f"structured_outputs.{name}: use response_format.", param="structured_outputs")
        # Clients of vLLM write all that it knows, with null for what they do not use.
        return {name: given for name, given in value.items() if given is not None}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(given is not None for given in (self.regex, self.choice, self.grammar)) != 1:
            raise ApiError(
                400, "structured_outputs: give exactly one of regex, choice and grammar.", param="structured_outputs"
            )
        return self
