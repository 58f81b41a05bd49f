"""What each operation answers when all is well, by method and path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flexquant.server import exposition, streaming
from flexquant.server.elastic_state import ElasticState
from flexquant.server.openapi import answers
from flexquant.server.routes import trace


@dataclass(frozen=True, slots=True)
class Described:
    """An answer with status 200.

    Args:
        description: What it is, in words.
        model: Of its JSON; None where there is none.
        text: Its media type where it is, or can be, text.
    """

    description: str
    model: type[Any] | None = None
    text: str | None = None

    def response(self) -> dict[str, Any]:
        """Its part of the document."""
        content: dict[str, Any] = {}
        if self.model is not None:
            content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{self.model.__name__}"}}
        if self.text is not None:
            content[self.text] = {"schema": {"type": "string"}}
        return {"description": self.description, "content": content}


_STREAM: Final = (
    " With `stream`, server-sent events: `data` is a JSON object of the same kind with `delta` or a part of `text`, "
    "the last one `[DONE]`. An error within a stream is a last event in the error envelope instead."
)
_EVENTS: Final = (
    "Server-sent events; `data` is a JSON object. `state` comes first and is what GET /v1/elastic answers; it comes "
    "again, with `missed`, the number of events left out, when the client reads too slowly. `decision`, `phase` and "
    "`position` tell of one change each, with `position`, `target`, `footprint_bytes` and `phase` after it; `decision` "
    "holds the decision, the other two have `before`. Comments keep the connection."
)

OPERATIONS: Final[Mapping[tuple[str, str], Described]] = {
    ("post", "/v1/completions"): Described(
        f"The continuations.{_STREAM}", answers.Completion, text=streaming.MEDIA_TYPE
    ),
    ("post", "/v1/chat/completions"): Described(
        f"The answer.{_STREAM}", answers.ChatCompletion, text=streaming.MEDIA_TYPE
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
    ("post", "/v1/elastic/target"): Described("The state after the move.", ElasticState),
    ("get", "/v1/elastic/events"): Described(_EVENTS, text=streaming.MEDIA_TYPE),
    ("get", "/v1/elastic/trace"): Described(
        "JSON Lines: a header, then samples, orders and wishes; `flexquant simulate` replays them.",
        text=trace.MEDIA_TYPE,
    ),
}
