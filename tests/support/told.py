"""What a daemon tells of itself, for tests of programs that show it."""

import json
from typing import Any, Final

import httpx

from flexquant.clients.load import Load
from flexquant.clients.top.view import Reading, View
from flexquant.clients.types import Decision, Elastic

NOW: Final = 1_700_000_000.0
STATE: Final[dict[str, Any]] = {
    "position": 3,
    "max_position": 10,
    "target": 3,
    "footprint_bytes": 700 << 20,
    "footprint_range_bytes": [400 << 20, 3 << 30],
    "mode": "auto",
    "pinned_position": None,
    "worst_position": 10,
    "ttl_seconds": None,
    "override": None,
    "available_bytes": 5 << 30,
    "pressure": "none",
    "phase": "hold",
    "refusing": None,
    "release_efficiency": 0.98,
    "retained_bytes": 0,
    "quality": {"perplexity": 14.9, "kl": 0.01},
    "last_decision": None,
    "sources": [
        {
            "name": "host",
            "available_bytes": 5 << 30,
            "total_bytes": 16 << 30,
            "error": None,
            "reserves": {"critical": 512 << 20, "low": 1 << 30, "target": 2 << 30, "high": 3 << 30},
        }
    ],
}
"""`GET /v1/elastic`."""
MODELS: Final[dict[str, Any]] = {
    "object": "list",
    "data": [{"id": "my-llama", "aliases": ["demo"], "context_length": 2048}],
}
"""`GET /v1/models`."""


DECIDED: Final[dict[str, Any]] = {
    "position": 2,
    "target": 6,
    "footprint_bytes": 800 << 20,
    "phase": "shrink",
    "decision": {"what": "shrink", "why": "host: 1 MiB", "when": NOW, "from_position": 2, "to_position": 6},
}
"""An event of the kind "decision"."""


def metrics(*, running: int = 1, waiting: int = 0, chats: int = 4, tokens: int = 100) -> str:
    """`GET /metrics`, as far as anybody here reads it."""
    return (
        "# HELP flexquant_requests_total HTTP requests.\n"
        "# TYPE flexquant_requests_total counter\n"
        'flexquant_requests_total{endpoint="/v1/elastic",status="200"} 99\n'
        f'flexquant_requests_total{{endpoint="/v1/chat/completions",status="200"}} {chats}\n'
        'flexquant_requests_total{endpoint="/v1/completions",status="503"} 1\n'
        f"flexquant_generated_tokens_total {float(tokens)}\n"
        f"flexquant_requests_running {running}\n"
        f"flexquant_requests_waiting {waiting}\n"
    )


def answer(request: httpx.Request, state: dict[str, Any] = STATE, *, tokens: int = 100) -> httpx.Response:
    """What a daemon answers to one who only looks."""
    match request.url.path:
        case "/v1/models":
            return httpx.Response(200, json=MODELS)
        case "/v1/elastic":
            return httpx.Response(200, json=state)
        case "/metrics":
            return httpx.Response(200, text=metrics(tokens=tokens))
        case "/v1/elastic/events":
            return httpx.Response(200, text=f": still here\n\n{event('state', state)}{event('decision', DECIDED)}")
    return httpx.Response(404, json={"error": {"message": "there is no such path", "code": "not_found"}})


def event(kind: str, data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def elastic(**changes: object) -> Elastic:
    """A state with these fields changed."""
    return Elastic.from_json(STATE | changes)


def decision(when: float = NOW, **changes: Any) -> Decision:
    """Something that was decided."""
    return Decision.from_json(DECIDED["decision"] | {"when": when} | changes)


def reading(at: float = NOW, tokens: int = 100, **changes: object) -> Reading:
    """What was read at a moment."""
    return Reading(at, elastic(**changes), Load(running=1, waiting=2, requests=5, generated_tokens=tokens))


def view(**changes: Any) -> View:
    """A view after one reading."""
    return View("http://here:8000").read(reading(**changes), "my-llama")
