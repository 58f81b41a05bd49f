"""How finely an ensemble of a model would give memory back: computed from the config, before anything is built."""

from collections.abc import Sequence

from flexquant.engine.model_config import ModelConfig
from flexquant.ensemble_builder.planned_ensemble import planned_ensemble
from flexquant.ensemble_builder.report.ladder import module_bytes, rungs
from flexquant.ensemble_builder.report.sizes import Granularity


def granularity_of(
    config: ModelConfig, levels: Sequence[float], group_size: int, max_step: int | None = None
) -> Granularity:
    """Return the granularity of a sequence over all projections, or slices of them; their order does not matter.

    Args:
        config: The model's.
        levels: Bits of each level, falling; two or more.
        group_size: Weights per scale.
        max_step: Most bytes that a module gives back in one step; no limit if None.
    """
    planned = planned_ensemble(config, levels, group_size=group_size, max_step=max_step)
    return Granularity.of(planned.sequence().footprint_bytes)


def ladder_granularity(config: ModelConfig, levels: Sequence[float], group_size: int) -> Granularity:
    """Return that of whole models every quarter of a bit between the first and the last level."""
    widths = rungs(levels[-1], levels[0])
    return Granularity.of([module_bytes(config, bits, group_size) for bits in widths])
