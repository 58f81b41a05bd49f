"""What requests may say, field by field.

Fields come in three lists, which docs/reference/request-fields.md shows to users:

- honoured: the fields of the classes below;
- accepted without effect: `ACCEPTED`, and what completions accept beyond it;
- refused with a 400 that names the field: `REFUSED`, unless the value means "off".

Unknown fields are ignored.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from flexquant.server.api_error import ApiError
from flexquant.server.fields import Fields, said
from flexquant.server.messages import Message
from flexquant.server.structured_fields import OTHER_SPELLINGS, ResponseFormat, StructuredOutputs
from flexquant.server.tools.fields import Tool, ToolChoice, tools_by_name

ACCEPTED: Final = ("user", "metadata", "service_tier", "reasoning_effort", "safety_identifier")
"""They change nothing about the answer."""
ACCEPTED_BY_COMPLETIONS: Final = (*ACCEPTED, "parallel_tool_calls")

REFUSED: Final[Mapping[str, tuple[object, ...]]] = {
    "best_of": (1,),
    "suffix": ("",),
    "repeat_penalty": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "store": (False,),
    **{name: (off,) for name, (_, off) in OTHER_SPELLINGS.items()},
}
"""Known fields that would change the answer and that this version does not do, with the values that mean "off"."""

REFUSED_BY_CHAT: Final[Mapping[str, tuple[object, ...]]] = {**REFUSED, "echo": (False,)}
REFUSED_BY_COMPLETIONS: Final[Mapping[str, tuple[object, ...]]] = {
    **REFUSED,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (),
}
"""`logprobs` is a number there."""

OTHER_NAMES: Final[Mapping[str, str]] = {
    "repeat_penalty": "repetition_penalty",
    "top_logprobs": "logprobs",
    **{name: here for name, (here, _) in OTHER_SPELLINGS.items()},
}
"""Refused fields that have another name here."""

MAX_STOPS: Final = 16
MAX_STOP_LENGTH: Final = 1024
_INT64: Final = 2**63
_TOKEN_ID: Final = re.compile("[0-9]{1,9}")


class StreamOptions(Fields):
    """How a streamed answer is sent."""

    include_usage: bool = False


def _token_biases(value: object) -> object:
    """Keys of JSON objects are strings; these are token ids."""
    if not isinstance(value, dict):
        return value
    if not all(isinstance(key, str) and _TOKEN_ID.fullmatch(key) for key in value):
        raise PydanticCustomError("token_id", "Keys should be token ids")
    return {int(key): bias for key, bias in value.items()}


Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenBiases = Annotated[
    dict[int, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]], BeforeValidator(_token_biases)
]
Stop = Annotated[
    str | list[str] | None,
    said("Input should be a string or a list of strings"),
]
TokenIds = list[Annotated[int, Field(ge=0)]]
Prompt = Annotated[
    str | list[str] | TokenIds | list[TokenIds],
    said("Input should be a string, token ids, or a list of either"),
]


class GenerationFields(Fields):
    """What completions and chat completions share."""

    refused: ClassVar[Mapping[str, tuple[object, ...]]]
    """Fields that get a 400, with the values that mean "off"."""

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0, lt=_INT64, description="0 considers every token.")
    min_p: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Share of the likeliest token's probability."
    )
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(
        default=None, ge=0.01, le=100, allow_inf_nan=False, description="1 is none; the prompt's tokens count, too."
    )
    logit_bias: TokenBiases | None = Field(default=None, description="Token ids, and what is added to their logits.")
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(
        default=None, ge=1, lt=2**31, description="The newer word for max_tokens; of both, this one counts."
    )
    ignore_eos: bool | None = Field(default=None, description="Go on after the end-of-sequence token.")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: object) -> object:
        if isinstance(body, Mapping):
            for field, off in cls.refused.items():
                value = body.get(field)
                if value is not None and not any(
                    type(value) is type(no) and value == no for no in (*off, *_floats(off))
                ):
                    name = OTHER_NAMES.get(field)
                    raise ApiError(
                        400,
                        f"{field}: this version does not support it; "
                        f"{'leave it out' if name is None else f'use {name}'}.",
                        param=field,
                        code="unsupported",
                    )
        return body

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if len(self.stops) > MAX_STOPS:
            raise ApiError(400, f"stop: at most {MAX_STOPS} strings are possible, not {len(self.stops)}.", param="stop")
        if any(not 0 < len(stop) <= MAX_STOP_LENGTH for stop in self.stops):
            raise ApiError(400, f"stop: each string needs 1 to {MAX_STOP_LENGTH} characters.", param="stop")
        return self

    @property
    def stops(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def most_tokens(self) -> int | None:
        """Most tokens to generate, as the request limits them."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


def _floats(values: tuple[object, ...]) -> list[object]:
    return [float(value) for value in values if type(value) is int]


class CompletionRequest(GenerationFields):
    """Body of POST /v1/completions."""

    refused = REFUSED_BY_COMPLETIONS

    prompt: Prompt = Field(description="Text, token ids, or a list of either; each prompt is continued by itself.")
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31, description="0 only takes the prompt in.")
    echo: bool | None = Field(default=None, description="The answer begins with the prompt; `logprobs` cover it, too.")
    logprobs: int | None = Field(
        default=None, ge=0, le=5, description="Log-probability of each token, and of as many of the likeliest."
    )

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or more.

        Raises:
            ApiError: There is none.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise ApiError(400, "prompt: it is empty.", param="prompt")
        tokens = [token for token in self.prompt if isinstance(token, int)]
        return [tokens] if tokens else [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class Conversation(Fields):
    """What a chat template is given."""

    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further variables of the model's chat template, such as enable_thinking."
    )

    @model_validator(mode="after")
    def _tools_differ(self) -> Self:
        tools_by_name(self.tools or ())
        return self


class ChatRequest(GenerationFields, Conversation):
    """Body of POST /v1/chat/completions."""

    refused = REFUSED_BY_CHAT

    messages: list[Message] = Field(min_length=1)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="false: at most one call in an answer.")
    logprobs: bool | None = Field(default=None, description="Log-probability of each token.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="And of as many of the likeliest.")

    @model_validator(mode="after")
    def _scored_on_request(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs: it needs `logprobs: true`.", param="top_logprobs")
        return self

    @property
    def scored(self) -> int | None:
        """How many of the likeliest tokens the log-probability of each token comes with; None for none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeRequest(Conversation):
    """Body of POST /tokenize: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    add_special_tokens: bool | None = Field(default=None, description="Begin with the begin-of-text token if needed.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "Give exactly one of prompt and messages.", param="prompt")
        return self


class DetokenizeRequest(Fields):
    """Body of POST /detokenize."""

    model: str | None = None
    tokens: TokenIds


class TargetRequest(Fields):
    """Body of POST /v1/elastic/target: exactly one of the first four, and how long it holds."""

    position: int | None = Field(default=None, ge=0, lt=2**31, description="Hold this position.")
    bytes: int | None = Field(default=None, ge=0, lt=_INT64, description="Hold the best position that fits.")
    mode: Literal["auto"] | None = Field(default=None, description="Follow the memory again.")
    worst_position: int | None = Field(default=None, ge=0, lt=2**31, description="Never go beyond this position.")
    ttl_seconds: float | None = Field(default=None, gt=0, le=10**9, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("position", "bytes", "mode", "worst_position") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ApiError(400, f"Give exactly one of position, bytes, mode and worst_position, not {len(given)}.")
        return self
