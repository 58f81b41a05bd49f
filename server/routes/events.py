"""GET /v1/elastic/events: decisions and moves as they happen, as server-sent events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from flexquant.server.daemon_state import DaemonState
from flexquant.server.routes.dependencies import daemon_state
from flexquant.server.streaming import HEADERS, MEDIA_TYPE

router = APIRouter()


class _EventResponse(StreamingResponse):
    """Closes its events however it ends, also while it waits for a slow client."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type=MEDIA_TYPE, headers=HEADERS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


@router.get("/v1/elastic/events", response_class=StreamingResponse)
async def events(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> StreamingResponse:
    """The present state, then every decision and move as it happens, until the daemon stops."""
    controller = daemon.controller
    return _EventResponse(controller.events.listen(lambda: asdict(controller.state())))
