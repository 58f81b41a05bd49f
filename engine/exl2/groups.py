"""Row groups of an EXL2 matrix, as its `q_groups` tensor describes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

CODES_PER_PERIOD: Final = {8: 4, 6: 16, 5: 32, 4: 8, 3: 32, 2: 16}
"""Bits per code → codes after which a column's bitstream is at a 32-bit boundary again."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive groups of the same width and length.

    Rows are rows of the packed matrix [in_features, out_features]; words are rows of `q_weight`.
    """

    bits: int
    rows_per_group: int
    groups: int
    first_group: int
    first_row: int
    first_word: int

    @property
    def rows(self) -> int:
        """Rows of all groups of the run."""
        return self.rows_per_group * self.groups

    @property
    def words(self) -> int:
        """32-bit words that a column of the run takes."""
        return self.rows * self.bits // 32


def runs(q_groups: Sequence[int], in_features: int, words: int) -> tuple[Run, ...]:
    """The runs that `q_groups` describes.

    Args:
        q_groups: Interleaved (bits, first word) per group.
        in_features: Rows of the matrix.
        words: Rows of `q_weight`.

    Raises:
        ValueError: The groups contradict themselves or the sizes; the message says how.
    """
    if not q_groups or len(q_groups) % 2:
        raise ValueError(f"{len(q_groups)} entries are not pairs of (bits, first word)")
    bits, starts = q_groups[0::2], [*q_groups[1::2], words]
    if starts[0] != 0:
        raise ValueError(f"the first group starts at word {starts[0]}")
    lengths = []
    for group, width in enumerate(bits):
        taken = starts[group + 1] - starts[group]
        if width not in CODES_PER_PERIOD:
            raise ValueError(f"group {group} has {width} bits; widths are {', '.join(map(str, CODES_PER_PERIOD))}")
        if taken <= 0:
            raise ValueError(f"group {group} starts at word {starts[group]} and ends at word {starts[group + 1]}")
        rows = taken * 32 // width
        if rows * width != taken * 32:
            raise ValueError(f"group {group} takes {taken} words, which codes of {width} bits cannot fill")
        lengths.append(rows)
    if sum(lengths) != in_features:
        raise ValueError(f"its groups have {sum(lengths)} rows, the matrix has {in_features}")
    return tuple(_merged(zip(bits, lengths, strict=True)))


def _merged(groups: Iterable[tuple[int, int]]) -> Iterable[Run]:
    group = row = word = 0
    for (bits, rows), same in groupby(groups):
        run = Run(bits, rows, len(list(same)), group, row, word)
        yield run
        group, row, word = group + run.groups, row + run.rows, word + run.words
