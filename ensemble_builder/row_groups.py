"""How the rows of a matrix are cut into groups of one width and one set of scales, as the EXL2 format has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.model_config import LinearShape

WIDTHS: Final = (8, 6, 5, 4, 3, 2)
"""Code widths of the format, in bits, in the order in which a matrix may have them."""
ROW_MULTIPLE: Final = 32
"""Rows of a section are a multiple of this (of 16 at 2 bits, of which no use is made)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows with the same width and shared scales.

    Args:
        bits: Width of the codes.
        start: First row.
        rows: Number of rows, a multiple of 32 (16 if `bits` is 2).
    """

    bits: int
    start: int
    rows: int


def check_rows(checkpoint: Path, linears: Sequence[LinearShape]) -> None:
    """Check that the format can have a model's linear layers.

    Raises:
        UnsupportedModelError: One has a number of inputs that it cannot have.
    """
    for shape in linears:
        if shape.in_features % ROW_MULTIPLE:
            raise UnsupportedModelError(
                f"{checkpoint}: {shape.key} has {shape.in_features} inputs; EXL2 needs a multiple of {ROW_MULTIPLE}"
            )


def groups_of(widths: list[tuple[int, int]], group_size: int) -> list[Group]:
    """Cut rows into groups.

    Args:
        widths: (bits, rows) of each section, widths descending, rows multiples of 32.
        group_size: Rows of a group; the last one of a section may have fewer. A multiple of 32.
    """
    groups, start = [], 0
    for bits, rows in widths:
        groups += [Group(bits, start + at, min(group_size, rows - at)) for at in range(0, rows, group_size)]
        start += rows
    return groups
