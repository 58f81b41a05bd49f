"""The Python client against a stand-in for the network."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from flexquant import clients
from flexquant.clients import (
    AuthenticationError,
    BadRequestError,
    Client,
    ClientError,
    NoAnswerError,
    NotFoundError,
    OverloadedError,
    Reserves,
    UnexpectedAnswerError,
    UnreachableError,
)

URL = "http://daemon.test:8000"
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
    "flexquant": {"position_start": 0, "position_end": 4, "position_worst": 7},
}
ELASTIC = {
    "position": 3,
    "max_position": 10,
    "target": 5,
    "footprint_bytes": 700,
    "footprint_range_bytes": [400, 900],
    "mode": "pinned",
    "pinned_position": 2,
    "worst_position": 9,
    "ttl_seconds": 12.5,
    "override": "critical",
    "available_bytes": None,
    "pressure": "unknown",
    "phase": "blind",
    "refusing": None,
    "release_efficiency": 0.98,
    "retained_bytes": 0,
    "quality": {"perplexity": 14.9, "kl": 0.01},
    "last_decision": {"what": "critical", "why": "host: ...", "when": 5e8, "from_position": 2, "to_position": 5},
    "sources": [
        {"name": "host", "available_bytes": None, "total_bytes": None, "error": "OSError", "reserves": None},
        {
            "name": "cgroup",
            "available_bytes": 5,
            "total_bytes": 9,
            "error": None,
            "reserves": {"critical": 1, "low": 2, "target": 3, "high": 4},
        },
    ],
    "a_field_of_the_future": 1,
}


def _client(answer: Callable[[httpx.Request], httpx.Response], **settings: Any) -> Client:
    return Client(URL, transport=httpx.MockTransport(answer), **settings)


def _says(data: object, status: int = 200, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json=data, headers=headers)


def _error(message: str = "n: too many", **fields: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "t", "param": None, "code": None, **fields}}


def _events(*chunks: object, end: str = "data: [DONE]\n\n") -> bytes:
    return (": keep alive\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def test_the_public_names_are_these() -> None:
    assert sorted(clients.__all__) == clients.__all__
    assert all(hasattr(clients, name) for name in clients.__all__)
    assert {"Client", "ClientError", "Elastic", "Answer", "Piece"} <= set(clients.__all__)


def test_a_completion() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        choice = {"index": 0, "text": " there was", "finish_reason": "length"}
        return httpx.Response(200, json={"id": "cmpl-1", "model": "demo", "choices": [choice], "usage": USAGE})

    with _client(answer) as client:
        found = client.completions("Once", max_tokens=2, temperature=0)
    assert sent[0].url == f"{URL}/v1/completions"
    assert json.loads(sent[0].content) == {"prompt": "Once", "max_tokens": 2, "temperature": 0}
    assert (found.text, found.finish_reason, found.id, found.model) == (" there was", "length", "cmpl-1", "demo")
    assert (found.usage.position_start, found.usage.position_end, found.usage.position_worst) == (0, 4, 7)


def test_a_chat() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        return httpx.Response(200, json={"id": "c", "model": "demo", "choices": [choice], "usage": USAGE})

    messages = [{"role": "user", "content": "Hello"}]
    assert _client(answer).chat(messages).text == "Hi"
    assert sent[0].url.path == "/v1/chat/completions"
    assert json.loads(sent[0].content) == {"messages": messages}


def test_a_streamed_completion() -> None:
    chunks = [
        {"choices": [{"index": 0, "text": " ünd", "finish_reason": None}], "usage": None},
        {"choices": [{"index": 0, "text": " so", "finish_reason": None}], "usage": None},
        {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": None},
        {"choices": [], "usage": USAGE},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
        return httpx.Response(200, content=_events(*chunks))

    pieces = list(_client(answer).completions("Once", stream=True))
    assert "".join(piece.text for piece in pieces) == " ünd so"
    assert [piece.finish_reason for piece in pieces] == [None, None, "stop", None]
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.position_worst == 7


def test_a_streamed_chat() -> None:
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    pieces = list(_client(lambda _: httpx.Response(200, content=_events(*chunks))).chat([], stream=True))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("Hi", None), ("", "stop")]


def test_a_stream_that_is_left_early_is_closed() -> None:
    class Stream(httpx.SyncByteStream):
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b'data: {"choices": [{"index": 0, "text": "x", "finish_reason": null}]}\n\n'

        def close(self) -> None:
            self.closed = True

    stream = Stream()
    pieces = _client(lambda _: httpx.Response(200, stream=stream)).completions("Once", stream=True)
    assert next(pieces).text == "x"
    pieces.close()
    assert stream.closed


def test_an_error_in_a_stream_is_raised() -> None:
    chunk = {"choices": [{"index": 0, "text": "x", "finish_reason": None}]}
    content = _events(chunk, _error("The engine stopped."), end="")
    pieces = _client(lambda _: httpx.Response(200, content=content)).completions("Once", stream=True)
    assert next(pieces).text == "x"
    with pytest.raises(clients.ApiError, match="The engine stopped"):
        next(pieces)


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    content = _events({"choices": [{"index": 0, "text": "x", "finish_reason": None}]}, end="")
    with pytest.raises(UnexpectedAnswerError, match="before its end"):
        list(_client(lambda _: httpx.Response(200, content=content)).completions("Once", stream=True))


def test_a_refused_stream_tells_why() -> None:
    answer = _says(_error("queue is full", code="queue_full"), 503, **{"retry-after": "2"})
    with pytest.raises(OverloadedError, match="queue is full") as caught:
        next(_client(answer).completions("Once", stream=True))
    assert (caught.value.retry_after, caught.value.code, caught.value.status) == (2.0, "queue_full", 503)


def test_models() -> None:
    entry = {"id": "demo", "object": "model", "aliases": ["gpt-4"], "context_length": 1024}
    (model,) = _client(_says({"object": "list", "data": [entry]})).models()
    assert (model.id, model.aliases, model.context_length) == ("demo", ("gpt-4",), 1024)


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_health_and_ready(status: int, well: bool) -> None:
    client = _client(lambda request: httpx.Response(status, json={"status": request.url.path}))
    assert client.health() is client.ready() is well


def test_the_elastic_state() -> None:
    state = _client(_says(ELASTIC)).elastic()
    assert (state.position, state.target, state.footprint_range_bytes) == (3, 5, (400, 900))
    assert state.quality.perplexity == 14.9
    assert state.last_decision is not None
    assert state.last_decision.what == "critical"
    silent, told = state.sources
    assert (silent.error, silent.reserves) == ("OSError", None)
    assert told.reserves == Reserves(critical=1, low=2, target=3, high=4)
    assert (state.refusing, state.release_efficiency, state.retained_bytes) == (None, 0.98, 0)
    first = _client(_says({**ELASTIC, "last_decision": None})).elastic()
    assert first.last_decision is None


@pytest.mark.parametrize(
    "wish",
    [{"position": 0}, {"bytes": 5, "ttl_seconds": 1.5}, {"mode": "auto"}, {"worst_position": 3}],
)
def test_targets_are_sent_as_they_are_given(wish: dict[str, Any]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/elastic/target")
        assert json.loads(request.content) == wish
        return httpx.Response(200, json=ELASTIC)

    assert _client(answer).set_target(**wish).position == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (413, BadRequestError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, NotFoundError),
        (503, OverloadedError),
        (500, clients.ApiError),
    ],
)
def test_refusals_have_their_own_kinds(status: int, kind: type[clients.ApiError]) -> None:
    with pytest.raises(kind, match="n: too many") as caught:
        _client(_says(_error(param="n"), status)).elastic()
    assert (type(caught.value), caught.value.status, caught.value.param) == (kind, status, "n")


@pytest.mark.parametrize("text", ["<html>", "[]", "{}", '{"position": "many"}'])
def test_something_else_that_answers_is_noticed(text: str) -> None:
    with pytest.raises(UnexpectedAnswerError):
        _client(lambda _: httpx.Response(200, text=text)).elastic()


@pytest.mark.parametrize("text", ["<html>", "{}", '{"error": "no envelope"}'])
def test_a_refusal_by_something_else_is_noticed(text: str) -> None:
    with pytest.raises(UnexpectedAnswerError):
        _client(lambda _: httpx.Response(502, text=text)).elastic()


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError("refused"), UnreachableError),
        (httpx.ReadTimeout("slow"), NoAnswerError),
        (httpx.RemoteProtocolError("garbage"), UnexpectedAnswerError),
    ],
)
def test_failures_of_the_connection_have_their_own_kinds(failure: Exception, kind: type[ClientError]) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise failure

    for call in (Client.elastic, Client.health, Client.models):
        with pytest.raises(kind):
            call(_client(answer))
    with pytest.raises(kind):
        next(_client(answer).completions("x", stream=True))


def test_a_wrong_url_is_told() -> None:
    with pytest.raises(UnreachableError, match="no valid URL"), Client("nonsense") as client:
        client.elastic()
    with pytest.raises(UnreachableError, match="no valid URL"):
        Client("http://[::1")


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=ELASTIC)

    monkeypatch.delenv("FLEXQUANT_URL", raising=False)
    monkeypatch.delenv("FLEXQUANT_API_KEY", raising=False)
    Client(transport=httpx.MockTransport(answer)).elastic()
    monkeypatch.setenv("FLEXQUANT_URL", "http://other.test:9/")
    monkeypatch.setenv("FLEXQUANT_API_KEY", "secret")
    Client(transport=httpx.MockTransport(answer)).elastic()
    Client("http://third.test", api_key="mine", transport=httpx.MockTransport(answer)).elastic()
    assert [str(request.url) for request in sent] == [
        "http://127.0.0.1:8000/v1/elastic",
        "http://other.test:9/v1/elastic",
        "http://third.test/v1/elastic",
    ]
    assert [request.headers.get("authorization") for request in sent] == [None, "Bearer secret", "Bearer mine"]
