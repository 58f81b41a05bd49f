"""GET /v1/elastic/trace and GET /v1/elastic/events through the whole application."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import httpx
import pytest
from starlette.types import Message

from flexquant.server.controller.trace import Dump, Snapshot, WishRow
from flexquant.server.simulation.replay import replay
from flexquant.server.simulation.trace_reader import read_trace
from support.fake_daemon import FakeDaemon, fake_daemon

PATHS = ("/v1/elastic/trace", "/v1/elastic/events")


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


def get(daemon: FakeDaemon, path: str, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with daemon.client(**headers) as client:
            return await client.get(path)

    return asyncio.run(ask())


class Listener:
    """An event stream's client without a socket: it reads when the test lets it."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": "/v1/elastic/events",
            "raw_path": b"/v1/elastic/events",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }
        self.task = asyncio.create_task(daemon.app(scope, self._receive, self.messages.put))

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def event(self) -> tuple[str, Any]:
        while not (body := (await self.messages.get()).get("body", b"")):
            pass
        kind, data = body.decode().rstrip("\n").split("\n")
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def leave(self) -> None:
        self._gone.set()
        await self.task


def test_the_trace_of_a_daemon_replays(daemon: FakeDaemon) -> None:
    controller = daemon.app.state.daemon.controller
    for _ in range(50):
        controller.tick()
    asyncio.run(controller.set_worst(2))
    for _ in range(50):
        controller.tick()
    answer = get(daemon, "/v1/elastic/trace")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert "attachment" in answer.headers["content-disposition"]
    dump = read_trace(answer.text.splitlines(), "answer")
    assert isinstance(dump, Dump)
    assert isinstance(dump.rows[0], Snapshot)
    assert [list(row.wish) for row in dump.rows if isinstance(row, WishRow)] == [["worst"]]
    found = replay(dump)
    assert found.difference is None
    assert found.ticks == 101


def test_before_the_first_tick_the_trace_is_a_header(daemon: FakeDaemon) -> None:
    answer = get(daemon, "/v1/elastic/trace")
    assert [json.loads(line)["kind"] for line in answer.text.splitlines()] == ["dump"]


def test_events_tell_the_state_then_the_decision_and_where_the_model_is(daemon: FakeDaemon) -> None:
    async def check() -> None:
        controller = daemon.app.state.daemon.controller
        async with asyncio.timeout(60):
            listener = Listener(daemon)
            kind, state = await listener.event()
            assert kind == "state"
            assert state == json.loads(json.dumps(get_state(daemon)))
            await asyncio.to_thread(controller.tick)
            await controller.pin_position(2)
            await asyncio.to_thread(controller.tick)
            told = [await listener.event() for _ in range(2)]
            assert {kind for kind, _ in told} == {"decision", "position"}
            decision = next(data for kind, data in told if kind == "decision")
            assert decision["decision"]["what"] == "pin"
            position = next(data for kind, data in told if kind == "position")
            assert (position["before"], position["position"]) == (0, 2)
            assert controller.events.listeners == 1
            await listener.leave()
            assert controller.events.listeners == 0

    asyncio.run(check())


def get_state(daemon: FakeDaemon) -> Any:
    return asdict(daemon.app.state.daemon.controller.state())


def test_events_end_when_the_daemon_stops(daemon: FakeDaemon) -> None:
    async def check() -> None:
        controller = daemon.app.state.daemon.controller
        async with asyncio.timeout(60):
            listener = Listener(daemon)
            await listener.event()
            controller.events.close()
            await listener.task
            assert controller.events.listeners == 0

    asyncio.run(check())
    answer = get(daemon, "/v1/elastic/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text.startswith("event: state\n")


@pytest.mark.parametrize("path", PATHS)
def test_records_need_the_key_and_a_host_of_ours(path: str) -> None:
    with fake_daemon("--api-key", "secret") as daemon:
        daemon.app.state.daemon.controller.events.close()  # so that the stream ends
        assert get(daemon, path).status_code == 401
        assert get(daemon, path, authorization="Bearer secret").status_code == 200
        assert get(daemon, path, authorization="Bearer secret", host="evil.example").status_code == 403


def test_both_are_in_the_openapi_document(daemon: FakeDaemon) -> None:
    paths = get(daemon, "/openapi.json").json()["paths"]
    for path, kind in zip(PATHS, ("application/x-ndjson", "text/event-stream"), strict=True):
        answer = paths[path]["get"]["responses"]
        assert list(answer["200"]["content"]) == [kind]
        assert answer["200"]["description"] != "Successful Response"
        assert {"401", "403", "405", "500", "503"} < set(answer)
