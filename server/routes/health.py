"""GET /health (the process lives) and GET /ready (it takes requests)."""

from typing import Annotated

from fastapi import APIRouter, Depends

from flexquant.server.api_error import unavailable
from flexquant.server.daemon_state import DaemonState
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """The daemon lives; says nothing about the model."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, str]:
    """Requests are taken; 503 otherwise."""
    if not daemon.engine.alive:
        raise unavailable("The daemon is stopping.", code="stopping")
    return {"status": "ready", "model": daemon.model.id}
