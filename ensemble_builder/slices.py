"""Cuts linear layers into column slices, so that no step gives back more than a limit. EXL2 columns are independent."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from flexquant.engine.exl2.spec import COLUMN_MULTIPLE

Columns = tuple[int, int]
"""Half-open range of output columns."""

WHOLE: Final[tuple[Columns | None, ...]] = (None,)


def slices_within(
    out_features: int, step_of: Callable[[Columns | None], int], max_step: int | None
) -> tuple[Columns | None, ...]:
    """Return the fewest slices of `out_features` columns of which none has `step_of` above `max_step`.

    Args:
        out_features: Columns of the layer.
        step_of: Bytes that a slice gives back in its largest step; grows with its columns.
        max_step: Bytes; no limit if None.

    Returns:
        Ascending ranges that cover the layer, or None alone for a layer that is not cut. A layer that cannot be cut
        finely enough has slices of 32 columns.
    """
    if max_step is None or step_of(None) <= max_step:
        return WHOLE
    blocks = -(-out_features // COLUMN_MULTIPLE)
    if blocks == 1:
        return WHOLE
    counts = range(2, blocks)
    # The first slices are the widest, and more of them are no wider.
    fitting = bisect_left(counts, True, key=lambda count: step_of(_cut(out_features, count)[0]) <= max_step)
    return tuple(_cut(out_features, 2 + fitting))


def largest_step(sizes: Sequence[int]) -> int:
    """Return the bytes of the largest of a module's `steps_down`; 0 if there are none."""
    return max(steps_down(sizes), default=0)


def steps_down(sizes: Sequence[int]) -> list[int]:
    """Return what each transition of a module gives back. Levels at which it is no smaller than before are left out.

    Args:
        sizes: Payload bytes at each level, from best to smallest.
    """
    kept = list(sizes[:1])
    for size in sizes[1:]:
        if size < kept[-1]:
            kept.append(size)
    return [high - low for high, low in pairwise(kept)]


def _cut(out_features: int, count: int) -> list[Columns]:
    """Return `count` slices whose columns are multiples of 32 and differ by 32 at most, the widest first.

    The last one ends with the layer, whatever its columns are.
    """
    blocks = -(-out_features // COLUMN_MULTIPLE)
    narrow, wider = divmod(blocks, count)
    ends = [COLUMN_MULTIPLE * (narrow * at + min(at, wider)) for at in range(count)]
    return list(pairwise([*ends, out_features]))
