"""Server-sent events: how a streamed answer is written."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from flexquant.server.api_error import as_api_error

MEDIA_TYPE: Final = "text/event-stream"
DONE: Final = "data: [DONE]\n\n"
HEARTBEAT_S: Final = 15.0
"""So often something is sent, so that proxies and clients keep the connection and a client that is gone is noticed."""
HEARTBEAT: Final = ": still here\n\n"
"""A comment, which clients skip."""
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: Mapping[str, Any]) -> str:
    """One event that carries `data` as JSON."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def server_sent(
    chunks: AsyncGenerator[Mapping[str, Any] | None, None],
    before_error: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> AsyncGenerator[str, None]:
    """`chunks` as events, and `[DONE]` after the last; an error becomes a last event in the error envelope.

    Leaving the iteration early closes `chunks`.

    Args:
        chunks: None is a heartbeat.
        before_error: Gives the chunk, if there is one, that comes before an error.
    """
    async with aclosing(chunks) as source:
        try:
            async for chunk in source:
                yield HEARTBEAT if chunk is None else event(chunk)
        except Exception as error:
            if (last := before_error()) is not None:
                yield event(last)
            yield event(as_api_error(error).body())
            return
    yield DONE
