"""Positions of an ensemble beside a ladder of whole models at equal footprint. Pure.

Between two rungs a ladder has nothing to offer but the lower one. To be fair to it, its perplexity there is taken as
linear in the footprint, as if there were a rung at every byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

AS_GOOD: Final = 1.005
"""Perplexity over the ladder's up to which a position is called as good."""


@dataclass(frozen=True, slots=True)
class Beside:
    """One position beside the ladder.

    Args:
        position: Of the sequence.
        footprint_bytes: Of both.
        perplexity: The position's.
        ladder: The ladder's there.
    """

    position: int
    footprint_bytes: int
    perplexity: float
    ladder: float

    @property
    def ratio(self) -> float:
        """The position's perplexity over the ladder's."""
        return self.perplexity / self.ladder


def beside_ladder(
    positions: Sequence[tuple[int, int, float]], rungs: Sequence[tuple[int, float]]
) -> tuple[Beside, ...]:
    """Return every position whose footprint lies within the ladder's.

    Args:
        positions: (position, footprint, perplexity).
        rungs: (footprint, perplexity), footprints falling.
    """
    found = []
    for position, size, perplexity in positions:
        for (high, above), (low, below) in pairwise(rungs):
            if low <= size <= high:
                share = (high - size) / (high - low)
                found.append(Beside(position, size, perplexity, above + share * (below - above)))
                break
    return tuple(found)


def worst(beside: Sequence[Beside]) -> Beside:
    """Return the position of the highest ratio; the first one of several."""
    return max(beside, key=lambda found: found.ratio)


def finding(beside: Sequence[Beside]) -> str:
    """Return in plain words how the positions compare."""
    if not beside:
        return "No position has a footprint within the ladder's."
    last, good = worst(beside), sum(found.ratio <= AS_GOOD for found in beside)
    at = f"position {last.position} ({last.footprint_bytes / 1e6:.3f} MB)"
    said = f"the highest perplexity is {last.ratio:.4f}x the ladder's, at {at}"
    if good == len(beside):
        return f"Beside whole models of equal footprint every position is within {AS_GOOD}x: {said}."
    return (
        f"Beside whole models of equal footprint {len(beside) - good} of {len(beside)} positions are above "
        f"{AS_GOOD}x: {said}. A mix of far-apart levels costs quality half-way; it buys storage and small steps."
    )
