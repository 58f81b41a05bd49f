"""How finely an ensemble of a model would give memory back: computed from the config, before anything is built."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.ensemble_builder.any_precision.sizes import planes_and_tables
from flexquant.ensemble_builder.any_precision.widths import widths_of
from flexquant.ensemble_builder.planned_ensemble import planned_ensemble
from flexquant.ensemble_builder.report.ladder import module_bytes, rungs
from flexquant.ensemble_builder.report.sizes import Granularity
from flexquant.ensemble_builder.slices import Columns, largest_step, slices_within, steps_down


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


def any_precision_granularity(config: ModelConfig, levels: Sequence[float], max_step: int | None = None) -> Granularity:
    """Return the same of Any-Precision."""
    steps = list(_steps(config, levels, max_step))
    return Granularity.of([sum(steps) - gone for gone in accumulate(steps, initial=0)])


def ladder_granularity(config: ModelConfig, levels: Sequence[float], group_size: int) -> Granularity:
    """Return that of whole models every quarter of a bit between the first and the last level."""
    widths = rungs(levels[-1], levels[0])
    return Granularity.of([module_bytes(config, bits, group_size) for bits in widths])


def whole_levels_granularity(config: ModelConfig, levels: Sequence[float]) -> Granularity:
    """Return that of Any-Precision with the whole model at one level after the other."""
    # A layer that some levels have nothing of is there as at the next smaller one.
    shapes = [(shape, widths_of(shape, levels)) for shape in config.linears()]
    footprints = []
    for level in levels:
        at_level = [(shape, {low: bits for low, bits in widths.items() if low <= level}) for shape, widths in shapes]
        footprints.append(sum(planes_and_tables(shape, widths)[0] for shape, widths in at_level))
    return Granularity.of(footprints)


def _steps(config: ModelConfig, levels: Sequence[float], max_step: int | None) -> Iterator[int]:
    for shape in config.linears():

        def sizes(columns: Columns | None, shape: LinearShape = shape) -> list[int]:
            return planes_and_tables(shape, widths_of(shape, levels), columns)

        def step_of(columns: Columns | None) -> int:
            return largest_step(sizes(columns))  # used before the next turn

        for columns in slices_within(shape.out_features, step_of, max_step):
            yield from steps_down(sizes(columns))
