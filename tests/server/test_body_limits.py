"""How much of a body is taken, and for how long."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.types import Message, Scope

from flexquant.server.body_limits import BodyLimits
from flexquant.server.error_envelope import install_error_handlers

LIMIT = 100


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def _unread(request: Request) -> StreamingResponse:
    async def words() -> AsyncIterator[str]:
        for _ in range(3):
            yield "word "
            await asyncio.sleep(0.02)

    return StreamingResponse(words())


def limited(client_timeout: float = 30.0) -> BodyLimits:
    app = FastAPI(openapi_url=None)
    app.add_route("/length", _length, methods=["POST"])
    app.add_route("/unread", _unread, methods=["POST"])
    install_error_handlers(app)
    return BodyLimits(app, max_body=LIMIT, client_timeout=client_timeout)


def post(app: BodyLimits, content: bytes | list[bytes]) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        for part in content:
            assert isinstance(part, bytes)
            yield part

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post("/length", content=content if isinstance(content, bytes) else body())

    return asyncio.run(run())


def test_size_is_limited_by_what_is_announced_and_by_what_arrives() -> None:
    app = limited()
    assert post(app, b"x" * LIMIT).text == str(LIMIT)
    for content in (b"x" * (LIMIT + 1), [b"x" * 60, b"x" * 60]):
        answer = post(app, content)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "100 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/length", "/unread"])
def test_body_that_trickles_in_is_a_408_or_once_answered_a_client_that_is_gone(path: str) -> None:
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "asgi": {"spec_version": "2.3", "version": "3.0"},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(limited(client_timeout=0.03)(scope, receive, send))
    if path == "/length":
        assert sent[0]["status"] == 408
        assert b"--client-timeout" in sent[1]["body"]
    else:
        assert sent[0]["status"] == 200
