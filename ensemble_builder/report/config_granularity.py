"""How finely an ensemble of a model would give memory back: computed from the config, before anything is built."""

from collections.abc import Iterator, Sequence

from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.ensemble_builder.bit_allocation import allocate
from flexquant.ensemble_builder.report.ladder import module_bytes, payload, rungs
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
    return Granularity.of_steps(list(_steps(config, levels, group_size, max_step)))


def ladder_granularity(config: ModelConfig, levels: Sequence[float], group_size: int) -> Granularity:
    """Return that of whole models every quarter of a bit between the first and the last level."""
    widths = rungs(levels[-1], levels[0])
    return Granularity.of([module_bytes(config, bits, group_size) for bits in widths])


def _steps(config: ModelConfig, levels: Sequence[float], group_size: int, max_step: int | None) -> Iterator[int]:
    shapes = config.linears()
    sections = [allocate(shapes, level, group_size) for level in levels]

    def sizes(shape: LinearShape, columns: Columns | None) -> list[int]:
        return [payload(shape, of_level[shape.key], group_size, columns) for of_level in sections]

    for shape in shapes:

        def step_of(columns: Columns | None, shape: LinearShape = shape) -> int:
            return largest_step(sizes(shape, columns))

        for columns in slices_within(shape.out_features, step_of, max_step):
            yield from steps_down(sizes(shape, columns))
