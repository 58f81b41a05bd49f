"""GET /health (the process lives) and GET /ready (it takes requests). Neither is activity: they are not counted."""

from typing import Annotated

from fastapi import APIRouter, Depends

from flexquant.server.daemon_state import DaemonState
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, str]:
    """The daemon lives, busy, short of memory or stopping as it may be; 503 when only a new start would help."""
    daemon.engine.check_health()
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, str]:
    """Requests are taken; else the 503 that they would get."""
    daemon.engine.check()
    return {"status": "ready", "model": daemon.model.id}
