"""Clients that go away while their request waits, or while its prompt is taken in."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest

from support.fake_daemon import FakeDaemon, fake_daemon

Json = dict[str, Any]
TEXT = "/v1/completions"


async def _post(daemon: FakeDaemon, path: str, body: object) -> httpx.Response:
    async with daemon.client() as client:
        return await client.post(path, json=body)


def test_who_goes_away_while_it_waits_is_ended_whoever_comes_next() -> None:
    """The next request takes its place in the queue, before the engine thread has looked."""

    async def ask(daemon: FakeDaemon, gone: asyncio.Event) -> None:
        body = [b'{"prompt": "a", "max_tokens": 2}']

        async def receive() -> dict[str, object]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, object]) -> None:
            pass

        headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": TEXT, "raw_path": TEXT.encode(), "query_string": b""}
        await daemon.app(scope | {"headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)

    async def run(daemon: FakeDaemon) -> None:
        daemon.model.gate.clear()
        never, gone = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(ask(daemon, never))
        await asyncio.to_thread(daemon.model.at_gate.wait, 30)
        second = asyncio.create_task(ask(daemon, gone))
        while not daemon.engine.waiting:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(second, 30)
        third = asyncio.create_task(ask(daemon, never))
        while daemon.engine.waiting != 1:
            await asyncio.sleep(0.01)
        daemon.model.gate.set()
        await asyncio.wait_for(asyncio.gather(first, third), 30)

    with fake_daemon("--parallel", "1", "--max-queue", "1") as daemon:
        asyncio.run(run(daemon))


async def _leave(daemon: FakeDaemon, body: Json, leave: asyncio.Event) -> list[Json]:
    """Ask as a client that goes away when `leave` is set; returns what was sent to it."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": TEXT,
        "raw_path": TEXT.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    content = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    sent: list[Json] = []

    async def receive() -> Json:
        if content:
            return content.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await daemon.app(scope, receive, send)
    return sent


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_goes_away_during_prefill_is_given_up_at_the_next_safe_point(stream: bool) -> None:
    async def run(daemon: FakeDaemon) -> None:
        leave = asyncio.Event()
        daemon.model.gate.clear()
        body = {"prompt": [70] * 400, "stream": stream}
        asking = asyncio.create_task(_leave(daemon, body, leave))
        await asyncio.to_thread(daemon.model.at_gate.wait, 30)
        leave.set()
        await asyncio.sleep(0.05)
        daemon.model.gate.set()
        await asyncio.wait_for(asking, 30)
        answer = await _post(daemon, TEXT, {"prompt": "next", "max_tokens": 1})
        assert answer.status_code == 200

    with fake_daemon() as daemon:
        asyncio.run(run(daemon))
        assert daemon.model.passes == 1, "only the next client's prompt was computed"
        assert daemon.model.free_pages == 64


def test_client_that_goes_away_while_it_waits_never_gets_its_turn() -> None:
    async def run(daemon: FakeDaemon) -> None:
        leave = asyncio.Event()
        daemon.model.gate.clear()
        first = asyncio.create_task(_post(daemon, TEXT, {"prompt": "a", "max_tokens": 1}))
        await asyncio.to_thread(daemon.model.at_gate.wait, 30)
        waiting = asyncio.create_task(_leave(daemon, {"prompt": "b", "stream": True}, leave))
        while daemon.engine.waiting == 0:
            await asyncio.sleep(0.001)
        leave.set()
        await asyncio.sleep(0.05)
        daemon.model.gate.set()
        assert (await first).status_code == 200
        await asyncio.wait_for(waiting, 30)

    with fake_daemon() as daemon:
        asyncio.run(run(daemon))
        assert daemon.model.passes == 1
