"""Server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator

from flexquant.server.api_error import ApiError
from flexquant.server.streaming import event, server_sent

Chunk = dict[str, object]


def collect(chunks: AsyncGenerator[Chunk, None]) -> list[str]:
    async def run() -> list[str]:
        return [part async for part in server_sent(chunks)]

    return asyncio.run(run())


def test_event_is_one_line_of_json() -> None:
    text = event({"text": "two\nlines ü\u2028"})
    assert text.startswith("data: ")
    assert text.endswith("\n\n")
    assert text.count("\n") == 2
    assert json.loads(text.removeprefix("data: ")) == {"text": "two\nlines ü\u2028"}


def test_stream_ends_with_done() -> None:
    async def chunks() -> AsyncGenerator[Chunk, None]:
        yield {"a": 1}
        yield {"a": 2}

    assert collect(chunks()) == ['data: {"a":1}\n\n', 'data: {"a":2}\n\n', "data: [DONE]\n\n"]


def test_error_is_the_last_event_in_the_envelope() -> None:
    async def chunks() -> AsyncGenerator[Chunk, None]:
        yield {"a": 1}
        raise ApiError(503, "stopping", code="stopping")

    first, last = collect(chunks())
    assert first == 'data: {"a":1}\n\n'
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"


def test_leaving_early_closes_the_source() -> None:
    closed: list[bool] = []

    async def chunks() -> AsyncGenerator[Chunk, None]:
        try:
            while True:
                yield {}
        finally:
            closed.append(True)

    async def run() -> None:
        parts = server_sent(chunks())
        await anext(parts)
        await parts.aclose()

    asyncio.run(run())
    assert closed == [True]
