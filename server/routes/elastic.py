"""GET /v1/elastic (state), GET /v1/elastic/sequence (all positions) and POST /v1/elastic/target (wishes)."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flexquant.engine.errors import UsageError
from flexquant.server.api_error import ApiError
from flexquant.server.api_types import TargetRequest
from flexquant.server.daemon_state import DaemonState
from flexquant.server.elastic_state import ElasticState
from flexquant.server.routes.dependencies import daemon_state

router = APIRouter()


@router.get("/v1/elastic")
async def elastic(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """Position, footprint, memory, and the last decision."""
    return asdict(daemon.controller.state())


@router.get("/v1/elastic/sequence")
async def sequence(daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """Footprint and quality at every position; the same for as long as the daemon runs."""
    return asdict(daemon.controller.sequence())


@router.post("/v1/elastic/target")
async def target(body: TargetRequest, daemon: Annotated[DaemonState, Depends(daemon_state)]) -> dict[str, Any]:
    """Pin a position, follow the memory again, or limit the worst position; answers when the move was carried out."""
    try:
        return asdict(await _apply(body, daemon))
    except UsageError as error:
        raise ApiError(400, f"{error.message}.") from error


async def _apply(body: TargetRequest, daemon: DaemonState) -> ElasticState:
    controller, ttl = daemon.controller, body.ttl_seconds
    if body.position is not None:
        return await controller.pin_position(body.position, ttl)
    if body.bytes is not None:
        return await controller.pin_bytes(body.bytes, ttl)
    if body.worst_position is not None:
        return await controller.set_worst(body.worst_position, ttl)
    return await controller.auto(ttl)
