"""Which widths the rows of each linear layer get, so that a model has the average width that was asked for."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from flexquant.engine.model_config import LinearShape
from flexquant.ensemble_builder.row_groups import WIDTHS

LEAST_HEAD_BITS: Final = 6
"""The head is never narrower: every token's probabilities go through it."""

Sections = list[tuple[int, int]]
"""(bits, rows) of a linear layer's sections, widths descending; the inputs that matter most come first."""


def neighbours(level: float) -> tuple[int, int]:
    """Return the widest width of at most `level` bits and the narrowest of at least `level` (2 <= level <= 8)."""
    return max(width for width in WIDTHS if width <= level), min(width for width in WIDTHS if width >= level)


def head_bits(level: float) -> int:
    """Return the head's width in a model of `level` bits."""
    return neighbours(max(LEAST_HEAD_BITS, level))[1]


def allocate_levels(
    linears: Sequence[LinearShape], levels: Sequence[float], group_size: int, *, nested: bool = False
) -> list[dict[str, Sections]]:
    """Return the sections of every linear layer, by key, at each level.

    Args:
        linears: Forward order.
        levels: Average width of the decoder's weights at each, falling.
        group_size: Rows of a group.
        nested: Whether each level but the last is what it adds to the next one, see `allocate_residuals`.
    """
    whole = [allocate(linears, level, group_size) for level in (levels[-1:] if nested else levels)]
    return [allocate_residuals(linears, *pair, group_size) for pair in pairwise(levels) if nested] + whole


def allocate_residuals(
    linears: Sequence[LinearShape], level: float, lower: float, group_size: int
) -> dict[str, Sections]:
    """Return the sections of what is added to a model of `lower` bits to make one of `level` bits, by key.

    Their groups have the rows of that model's groups. A head that is no wider at `level` has none.

    Args:
        linears: Forward order.
        level: Average width of the decoder's weights.
        lower: That of the model below; at least 2 bits less.
        group_size: Rows of a group.
    """
    sections = allocate(linears, level - lower, group_size)
    for shape in linears:
        if shape.layer is None:
            width = head_bits(level) - head_bits(lower)
            sections[shape.key] = [(neighbours(width)[1], shape.in_features)] if width else []
    return {key: found for key, found in sections.items() if found}


def allocate(linears: Sequence[LinearShape], level: float, group_size: int) -> dict[str, Sections]:
    """Return the sections of every linear layer, by key.

    A whole width is the same everywhere. Between two widths each decoder layer mixes the neighbours; what one linear
    cannot hit exactly, because sections are whole groups, the next ones make up for. The head has one width and does
    not count for the average.

    Args:
        linears: Forward order.
        level: Average width of the decoder's weights, 2 to 8.
        group_size: Rows of a group.
    """
    low, high = neighbours(level)
    sections = {}
    missing = 0.0  # weights that should have had the higher width so far and have not
    for shape in linears:
        rows = shape.in_features
        if shape.layer is None:
            sections[shape.key] = [(head_bits(level), rows)]
            continue
        missing += rows * shape.out_features * ((level - low) / (high - low) if high > low else 0)
        wide = min(rows, max(0, round(missing / shape.out_features / group_size)) * group_size)
        missing -= wide * shape.out_features
        sections[shape.key] = [(bits, count) for bits, count in ((high, wide), (low, rows - wide)) if count]
    return sections
