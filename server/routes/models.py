"""GET /v1/models: the one model that is served, under each of its names."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


@router.head("/v1/models", include_in_schema=False)
@router.get("/v1/models")
async def models(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """List the served model: by its id, and by each alias that the user chose."""
    return {"object": "list", "data": [_describe(daemon.model, name) for name in daemon.model.listed]}


@router.head("/v1/models/{name:path}", include_in_schema=False)
@router.get("/v1/models/{name:path}")
async def model(name: str, daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """Describe the served model, by any name that requests may give."""
    daemon.model.check_name(name)
    return _describe(daemon.model, name)


def _describe(served: ServedModel, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "flexquant",
        "root": served.id,
        "aliases": sorted(served.aliases),
        "context_length": served.context,
    }
