"""GET /metrics: for Prometheus."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from flexquant.server.daemon_state import DaemonState
from flexquant.server.exposition import MEDIA_TYPE
from flexquant.server.routes.dependencies import daemon_state
from flexquant.server.scrape import scrape

router = APIRouter()


@router.get("/metrics", response_class=Response)
async def metrics(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> Response:
    """Counters since the start, and the present state."""
    return Response(await asyncio.to_thread(scrape, daemon), media_type=MEDIA_TYPE)
