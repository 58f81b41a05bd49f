"""GET /v1/models: the one model that is served."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flexquant.server.daemon_state import DaemonState, ServedModel
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


@router.head("/v1/models", include_in_schema=False)
@router.get("/v1/models")
async def models(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """List the served model."""
    return {"object": "list", "data": [_describe(daemon.model)]}


@router.head("/v1/models/{name:path}", include_in_schema=False)
@router.get("/v1/models/{name:path}")
async def model(name: str, daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """Describe the served model, by its id or an alias."""
    daemon.model.check_name(name)
    return _describe(daemon.model)


def _describe(served: ServedModel) -> dict[str, Any]:
    return {
        "id": served.id,
        "object": "model",
        "created": served.created,
        "owned_by": "flexquant",
        "aliases": sorted(served.aliases),
        "context_length": served.context,
    }
