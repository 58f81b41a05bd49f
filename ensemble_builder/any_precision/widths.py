"""Which levels have a linear layer at which width: the levels' own in the decoder, six bits and more in the head."""

from collections.abc import Sequence
from itertools import pairwise

from flexquant.engine.errors import UsageError
from flexquant.engine.model_config import LinearShape
from flexquant.ensemble_builder.bit_allocation import LEAST_HEAD_BITS

Widths = dict[float, int]
"""By level, from smallest to best: bits of a layer's codes. A level at which it is no wider has no entry."""


def check_levels(levels: Sequence[float]) -> None:
    """Check levels, 2 to 8 bits, for Any-Precision.

    Raises:
        UsageError: One is no whole number.
    """
    for level in levels:
        if level != int(level):
            raise UsageError(
                f"any-precision: {level:g} is no whole number of bits",
                hint="For example --levels 6,5,4,3; mixing widths is what the sequence does.",
            )


def widths_of(shape: LinearShape, levels: Sequence[float]) -> Widths:
    """Return the widths of a linear layer.

    Args:
        shape: The layer.
        levels: Falling.
    """
    wanted = {level: max(int(level), LEAST_HEAD_BITS if shape.layer is None else 0) for level in reversed(levels)}
    wider = [level for below, level in pairwise(wanted) if wanted[level] > wanted[below]]
    return {level: wanted[level] for level in (levels[-1], *wider)}
