"""Which level of ours takes as many bits on disk as something else, and how many it takes."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from flexquant.engine.exl2.spec import COLUMN_MULTIPLE
from flexquant.engine.model_config import LinearShape
from flexquant.ensemble_builder.bit_allocation import Sections, allocate
from flexquant.ensemble_builder.levels import NARROWEST, WIDEST
from flexquant.ensemble_builder.row_groups import groups_of
from flexquant.ensemble_builder.stores import Store

GROUP_SIZE: Final = 32
_SCALE_BITS: Final = 4
_GROUP_BITS: Final = 16 + 2 * 16
"""A group's largest scale, its width and its first row."""
_ORDER_BITS: Final = 32
"""An input's place in the packed order."""


def store_bits(store: Store) -> float:
    """Stored bits per weight of the decoder linears: codes, scales, group tables and orders, no biases."""
    shapes = _decoder(store.config.linears())
    entries = [store.specs[shape.key].entries for shape in shapes]
    stored = sum(entry.nbytes for found in entries for suffix, entry in found.items() if suffix != "bias")
    return 8 * stored / sum(shape.in_features * shape.out_features for shape in shapes)


def level_bits(linears: Sequence[LinearShape], level: float) -> float:
    """The same of a level that has not been made yet."""
    shapes = _decoder(linears)
    sections = allocate(linears, level, GROUP_SIZE)
    stored = sum(_matrix_bits(shape, sections[shape.key]) for shape in shapes)
    return stored / sum(shape.in_features * shape.out_features for shape in shapes)


def equal_level(linears: Sequence[LinearShape], bits: float) -> float:
    """The highest level, in thousandths, that takes at most `bits` stored bits per weight.

    It is never above 8, nor below 2, where it may take more.
    """
    levels = range(round(1000 * NARROWEST), round(1000 * WIDEST) + 1)
    found = bisect_right(levels, bits, key=lambda level: level_bits(linears, level / 1000)) - 1
    return levels[max(0, found)] / 1000


def _decoder(linears: Sequence[LinearShape]) -> list[LinearShape]:
    return [shape for shape in linears if shape.layer is not None]


def _matrix_bits(shape: LinearShape, sections: Sections) -> int:
    columns = -(-shape.out_features // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
    codes = sum(bits * rows for bits, rows in sections) * columns
    groups = len(groups_of(sections, GROUP_SIZE)) * (_SCALE_BITS * columns + _GROUP_BITS)
    return codes + groups + _ORDER_BITS * shape.in_features
