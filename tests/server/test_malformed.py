"""Thousands of malformed requests to the application: always the envelope, never a traceback, all given back."""

import asyncio
import json
import logging
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest
from starlette.types import Message, Scope

from support.fake_daemon import FakeDaemon, fake_daemon
from support.malformed import PATHS, Request, malformed

SEED = 20_250_107
EXPECTED = {200, 400, 403, 404, 405, 413, 431}
LIMIT_S = 20.0


@dataclass
class Client:
    """Sends one request to an ASGI application, and takes what comes back."""

    request: Request
    status: int | None = None
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    _sent: int = 0

    async def talk(self, app: Any) -> None:
        await asyncio.wait_for(app(self._scope(), self._receive, self._send), LIMIT_S)

    def _scope(self) -> Scope:
        path, _, query = self.request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 9),
            "scheme": "http",
            "method": self.request.method,
            "root_path": "",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": list(self.request.headers),
            "state": {},
        }

    async def _receive(self) -> Message:
        parts, at = self.request.body, self._sent
        self._sent += 1
        if at < len(parts) - self.request.cut:
            return {"type": "http.request", "body": parts[at], "more_body": at + 1 < len(parts)}
        if not parts and at == 0:
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self.request.cut:
            await asyncio.sleep(LIMIT_S)  # it stays until it has its answer
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")


def check(client: Client) -> None:
    assert client.status in EXPECTED | ({499} if client.request.cut else set())
    if client.status == 200:
        known = client.request.target.partition(b"?")[0].decode()
        assert known in PATHS or known.startswith("/v1/models")
        return
    assert client.headers[b"content-type"] == b"application/json"
    error = json.loads(client.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in error["message"]


def everything_is_given_back(daemon: FakeDaemon, pages: int) -> bool:
    return daemon.engine.running == daemon.engine.waiting == 0 and daemon.model.free_pages == pages


def survive(count: int, seed: int, caplog: pytest.LogCaptureFixture) -> dict[int | None, int]:
    chance, seen = random.Random(seed), dict[int | None, int]()
    with fake_daemon("--max-body", "100k") as daemon, caplog.at_level(logging.WARNING):
        pages = daemon.model.free_pages

        async def run() -> None:
            for number in range(count):
                client = Client(malformed(chance))
                try:
                    await client.talk(daemon.app)
                    check(client)
                except BaseException as error:
                    error.add_note(f"request {number} of seed {seed}: {str(client.request)[:3000]}")
                    error.add_note(f"answer: {client.status} {client.body[:500]!r}")
                    raise
                seen[client.status] = seen.get(client.status, 0) + 1
            while not everything_is_given_back(daemon, pages):
                await asyncio.sleep(0.01)

        asyncio.run(run())
        assert not caplog.records, caplog.text

        async def good() -> int:
            async with daemon.client() as client:
                answer = await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
                return int(answer.json()["usage"]["completion_tokens"])

        assert asyncio.run(good()) == 2
    return seen


def test_malformed_requests_get_the_envelope(caplog: pytest.LogCaptureFixture) -> None:
    seen = survive(1500, SEED, caplog)
    assert set(seen) >= EXPECTED, "every kind of answer was met"


@pytest.mark.slow
def test_ten_thousand_malformed_requests_get_the_envelope(caplog: pytest.LogCaptureFixture) -> None:
    survive(10_000, SEED + 1, caplog)
