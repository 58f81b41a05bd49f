"""GET /v1/elastic/trace: what the control law saw and did in the last minutes, for replay."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from flexquant.server.daemon_state import DaemonState
from flexquant.server.routes.dependencies import daemon_state

MEDIA_TYPE: Final = "application/x-ndjson"
BLOCK_CHARS: Final = 1 << 16

router = APIRouter()


@router.get("/v1/elastic/trace", response_class=StreamingResponse)
async def trace(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> StreamingResponse:
    """The last ten minutes of the control law, at least. It holds sizes and times, nothing of any request."""
    lines = await asyncio.to_thread(daemon.controller.trace)  # waits for the tick under way
    return StreamingResponse(
        _blocks(lines),
        media_type=MEDIA_TYPE,
        headers={"cache-control": "no-store", "content-disposition": 'attachment; filename="flexquant-trace.jsonl"'},
    )


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """The lines in larger pieces: each piece goes through a thread of the server."""
    waiting: list[str] = []
    size = 0
    for line in lines:
        waiting.append(f"{line}\n")
        size += len(line)
        if size >= BLOCK_CHARS:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)
