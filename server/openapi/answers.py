"""What answers look like, for the OpenAPI document alone: nothing is built from these classes or checked by them.

`tests/server/openapi` compares real answers with them. Objects may have further members.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from flexquant.server.generate import FinishReason

Count = Annotated[int, Field(ge=0)]
Logprob = Annotated[float, Field(le=0)]


class Problem(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The request's field that is to blame.")
    code: str | None = Field(description="A short word for programs.")


class Error(BaseModel):
    """OpenAI's error envelope."""

    error: Problem


class CachedTokens(BaseModel):
    """Where the prompt's keys and values came from."""

    cached_tokens: Count


class Positions(BaseModel):
    """Where in its sequence the model was while it answered; 0 is the best."""

    position_start: Count
    position_end: Count
    position_worst: Count


class UsageBlock(BaseModel):
    """What an answer took."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens
    flexquant: Positions


class Frame(BaseModel):
    """What answers and the chunks of streams share."""

    id: str
    created: int
    model: str
    system_fingerprint: str = Field(description="Names build, ensemble and position.")


class Answer(Frame):
    """What completions and chat completions share."""

    usage: UsageBlock


class Chunk(Frame):
    """What the chunks of streams share."""

    usage: UsageBlock | None = Field(
        default=None, description="With `include_usage`: null, and in the last chunk, which has no choices, the usage."
    )


class CompletionLogprobs(BaseModel):
    """Lists with one item for each token."""

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: list[Count]


class CompletionChoice(BaseModel):
    """One continuation of one prompt."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class CompletionPiece(BaseModel):
    """A part of one continuation."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(Chunk):
    """`data` of an event of a streamed answer of POST /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionPiece]


class Completion(Answer):
    """Answer of POST /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class LikelyToken(BaseModel):
    """A token and its log-probability."""

    token: str
    logprob: Logprob | None
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None


class ScoredToken(LikelyToken):
    """A token of the answer."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(BaseModel):
    """The answer's tokens."""

    content: list[ScoredToken]
    refusal: None


class Function(BaseModel):
    """A function, and what it is called with: JSON as text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """The model wants a function called."""

    id: str
    type: Literal["function"]
    function: Function


class ChatMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One answer to the conversation."""

    index: Count
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class FunctionPiece(BaseModel):
    """The name comes first, then the arguments in pieces."""

    name: str | None = None
    arguments: str


class ToolCallPiece(BaseModel):
    """A part of a call; the first has `id` and `type`."""

    index: Count
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionPiece


class Delta(BaseModel):
    """What comes to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallPiece] | None = None


class ChatPiece(BaseModel):
    """A part of one answer."""

    index: Count
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Chunk):
    """`data` of an event of a streamed answer of POST /v1/chat/completions."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]


class ChatCompletion(Answer):
    """Answer of POST /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str = Field(description="The model's id, whatever name this is.")
    aliases: list[str]
    context_length: Count


class Models(BaseModel):
    """Answer of GET /v1/models."""

    object: Literal["list"]
    data: list[Model]


class Tokens(BaseModel):
    """Answer of POST /tokenize."""

    count: Count
    max_model_len: Count
    tokens: list[Count]


class Detokenized(BaseModel):
    """Answer of POST /detokenize."""

    prompt: str


class Alive(BaseModel):
    """Answer of GET /health."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Answer of GET /ready."""

    status: Literal["ready"]
    model: str


class ElasticEvent(BaseModel):
    """`data` of an event of GET /v1/elastic/events: the state, or these and what has changed."""

    position: Count
    target: Count
    footprint_bytes: Count
    phase: str


def schemas_of(*kinds: Any) -> dict[str, dict[str, Any]]:
    """JSON schemas of classes and of all that they consist of, by name, with references between them."""
    mode: Literal["serialization"] = "serialization"
    adapters = [(kind.__name__, mode, TypeAdapter[Any](kind)) for kind in kinds]
    _, found = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    schemas: dict[str, dict[str, Any]] = found["$defs"]
    return schemas
