"""What each operation answers when all is well, by method and path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flexquant.server import exposition, streaming
from flexquant.server.elastic_state import ElasticState, SequenceState
from flexquant.server.openapi import answers
from flexquant.server.openapi.answers import Error
from flexquant.server.routes import trace


@dataclass(frozen=True, slots=True)
class Described:
    """An answer with status 200.

    Args:
        description: What it is, in words.
        model: Of its JSON; None where there is none.
        text: Its media type where it is text.
        chunk: Of the JSON in each event where it is, or can be, a stream of events.
    """

    description: str
    model: type[Any] | None = None
    text: str | None = None
    chunk: type[Any] | None = None

    def response(self) -> dict[str, Any]:
        """Its part of the document."""
        content: dict[str, Any] = {}
        if self.model is not None:
            content["application/json"] = {"schema": reference(self.model)}
        if self.text is not None:
            content[self.text] = {"schema": {"type": "string"}}
        if self.chunk is not None:
            content[streaming.MEDIA_TYPE] = {"schema": _event_of(self.chunk)}
        return {"description": self.description, "content": content}


def reference(model: type[Any]) -> dict[str, str]:
    """Where the document describes a class."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _event_of(chunk: type[Any]) -> dict[str, Any]:
    """Each event of a stream."""
    last = {"const": streaming.DONE.removeprefix("data: ").strip()}
    parts = [{"contentMediaType": "application/json", "contentSchema": reference(part)} for part in (chunk, Error)]
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"event": {"type": "string"}, "data": {"type": "string", "anyOf": [last, *parts]}},
    }


_STREAM: Final = (
    " With `stream`, server-sent events, the last one `[DONE]`. An error within a stream is a last event in the error "
    "envelope instead."
)
_EVENTS: Final = (
    "Server-sent events; `data` is a JSON object. `state` comes first and is what GET /v1/elastic answers; it comes "
    "again, with `missed`, the number of events left out, when the client reads too slowly. `decision`, `phase` and "
    "`position` tell of one change each, with `position`, `target`, `footprint_bytes` and `phase` after it; `decision` "
    "holds the decision, the other two have `before`. Comments keep the connection."
)

OPERATIONS: Final[Mapping[tuple[str, str], Described]] = {
    ("post", "/v1/completions"): Described(
        f"The continuations.{_STREAM}", answers.Completion, chunk=answers.CompletionChunk
    ),
    ("post", "/v1/chat/completions"): Described(
        f"The answer.{_STREAM}", answers.ChatCompletion, chunk=answers.ChatCompletionChunk
    ),
    ("get", "/v1/models"): Described("The served model.", answers.Models),
    ("get", "/v1/models/{name}"): Described("The served model.", answers.Model),
    ("post", "/tokenize"): Described("The tokens.", answers.Tokens),
    ("post", "/detokenize"): Described("The text.", answers.Detokenized),
    ("get", "/health"): Described("The daemon lives.", answers.Alive),
    ("get", "/ready"): Described("Requests are taken.", answers.Ready),
    ("get", "/metrics"): Described(
        "Prometheus' text format; docs/reference/metrics.md lists the metrics.",
        text=exposition.MEDIA_TYPE.partition(";")[0],
    ),
    ("get", "/v1/elastic"): Described("The state.", ElasticState),
    ("get", "/v1/elastic/sequence"): Described("All positions, the best one first.", SequenceState),
    ("post", "/v1/elastic/target"): Described("The state after the move.", ElasticState),
    ("get", "/v1/elastic/events"): Described(_EVENTS, chunk=answers.ElasticEvent),
    ("get", "/v1/elastic/trace"): Described(
        "JSON Lines: a header, then samples, orders and wishes; `flexquant simulate` replays them.",
        text=trace.MEDIA_TYPE,
    ),
}
