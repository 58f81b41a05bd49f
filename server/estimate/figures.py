"""What an ensemble takes: on disk, in memory at both ends, per step and per token; and whether that fits. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import MemoryShortError
from flexquant.ensemble_builder.report.sizes import Granularity
from flexquant.server.start_plan import Demand, Room, plan_start

KV_TOKENS = 1000
"""Tokens that the size of the KV cache is told for."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a daemon would start now.

    Args:
        fits: Whether it would.
        available_bytes: Memory that there is, by the tightest source.
        position: Where it would start; None if it would not.
        context: Most tokens of a sequence then; None if it would not.
        why_not: What is missing; None if it would start.
    """

    fits: bool
    available_bytes: int
    position: int | None
    context: int | None
    why_not: str | None

    @classmethod
    def of(cls, demand: Demand, room: Room, parallel: int) -> Self:
        """What the daemon itself would decide."""
        try:
            plan = plan_start(demand, room, context=None, parallel=parallel, pin=None, worst_position=None)
        except MemoryShortError as error:
            return cls(False, room.available, None, None, error.message)
        return cls(True, room.available, plan.position, plan.context, None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """All figures; sizes in bytes.

    Args:
        model: Its name.
        built: Whether it is an ensemble that is there; else it was computed from the model's config.
        architecture: `model_type` of config.json.
        parameters: Weights of the model.
        levels: Names of the levels.
        nested: Whether a level holds what is added to another one.
        footprint_range_bytes: (smallest, largest) resident weights: at the last position and at position 0.
        steps: Between neighbouring positions.
        disk_bytes: Of the ensemble's files; about, where it was computed.
        download_bytes: Of the checkpoint's weights on the hub; None where nothing is downloaded.
        embedding_bytes: The embedding table, which stays in its file and is no part of the footprint.
        kv_bytes: Of the KV cache for KV_TOKENS tokens.
        working_bytes: Beside weights and KV cache.
        context: Most tokens of a sequence that the model runs with.
        fit: Whether it fits into this machine now.
    """

    model: str
    built: bool
    architecture: str
    parameters: int
    levels: tuple[str, ...]
    nested: bool
    footprint_range_bytes: tuple[int, int]
    steps: Granularity
    disk_bytes: int
    download_bytes: int | None
    embedding_bytes: int
    kv_bytes: int
    working_bytes: int
    context: int
    fit: Fit


def estimate_of(
    ensemble: Ensemble,
    demand: Demand,
    room: Room,
    *,
    parallel: int,
    disk_bytes: int,
    download_bytes: int | None,
    built: bool,
) -> Estimate:
    """Put the figures of an ensemble together.

    Args:
        ensemble: Opened, or planned.
        demand: What the daemon says that it takes.
        room: What there is.
        parallel: Answers at a time.
        disk_bytes: See `Estimate`, as the rest.
        download_bytes: See `Estimate`.
        built: See `Estimate`.
    """
    manifest = ensemble.manifest
    footprints: Sequence[int] = ensemble.sequence().footprint_bytes
    return Estimate(
        model=manifest.name,
        built=built,
        architecture=manifest.architecture,
        parameters=manifest.parameters,
        levels=tuple(level.name for level in manifest.levels),
        nested=manifest.nested,
        footprint_range_bytes=(footprints[-1], footprints[0]),
        steps=Granularity.of(footprints),
        disk_bytes=disk_bytes,
        download_bytes=download_bytes,
        embedding_bytes=manifest.embedding_bytes,
        kv_bytes=round(KV_TOKENS * (demand.kv_page / demand.page_tokens + demand.working_per_token)),
        working_bytes=demand.working,
        context=demand.context,
        fit=Fit.of(demand, room, parallel),
    )
