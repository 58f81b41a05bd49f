"""How finely an ensemble of a model would give memory back: computed from the config, before anything is built."""

from collections.abc import Callable, Iterator, Sequence

from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.ensemble_builder.any_precision.sizes import planes_and_tables
from flexquant.ensemble_builder.any_precision.widths import widths_of
from flexquant.ensemble_builder.bit_allocation import allocate
from flexquant.ensemble_builder.report.ladder import module_bytes, payload, rungs
from flexquant.ensemble_builder.report.sizes import Granularity

Sizes = Callable[[LinearShape, Columns | None], list[int]]
"""Bytes of a layer, or of some of its columns, at every level from best to smallest."""


def exl2_sizes(config: ModelConfig, levels: Sequence[float], group_size: int) -> Sizes:
    """Return the sizes of layers in EXL2.

    Args:
        config: The model's.
        levels: Bits of each level, falling; two or more.
        group_size: Weights per scale.
    """
    sections = [allocate(config.linears(), level, group_size) for level in levels]
    return lambda shape, columns: [payload(shape, found[shape.key], group_size, columns) for found in sections]


def any_precision_sizes(levels: Sequence[float]) -> Sizes:
    """Return the sizes of layers in Any-Precision, at the levels at which they differ."""
    return lambda shape, columns: planes_and_tables(shape, widths_of(shape, levels), columns)


def granularity_of(config: ModelConfig, sizes_of: Sizes, max_step: int | None = None) -> Granularity:
    """Return the granularity of a sequence over all projections, or slices of them; their order does not matter.

    Args:
        config: The model's.
        sizes_of: Of its layers.
        max_step: Most bytes that a module gives back in one step; no limit if None.
    """
    return Granularity.of_steps(list(_steps(config, sizes_of, max_step)))


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


def _steps(config: ModelConfig, sizes_of: Sizes, max_step: int | None) -> Iterator[int]:
    for shape in config.linears():

        def step_of(columns: Columns | None, shape: LinearShape = shape) -> int:
            return largest_step(sizes_of(shape, columns))

        for columns in slices_within(shape.out_features, step_of, max_step):
            yield from steps_down(sizes_of(shape, columns))
