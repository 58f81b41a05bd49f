"""Pruning: which variants leave the disk, so that an ensemble fits a limit. Pure.

After the pruning in arXiv 2501.07139 (FlexQuant), which drops module variants by their sensitivity. How it chooses is
not published in detail; what is here is our own. Costs are taken to add up, as they nearly do: a choice is scored by
the area under loss over footprint that greedy-by-sensitivity then has over the whole range that the ensemble had
before. Where a footprint is larger than what is left at best, the model stays at its best, and what that costs counts.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from flexquant.ensemble_builder.sensitivity import Sensitivity, greedy_order
from flexquant.ensemble_builder.sequence import Unit, best, footprint, smallest

Kept = Sequence[Sequence[int]]
"""For every unit the variants that stay on the disk: indices, ascending, at least one."""

End = Literal["smallest", "best"]
"""Which end of the footprint's range is promised: it stays as it is, and the other end gives way."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A choice of variants.

    Args:
        kept: What stays.
        dropped_bytes: What leaves the disk.
        dropped_variants: How many variants that is.
    """

    kept: tuple[tuple[int, ...], ...]
    dropped_bytes: int
    dropped_variants: int


def pruned_units(units: Sequence[Unit], kept: Kept) -> list[Unit]:
    """Return the units with what is left of their variants."""
    return [
        Unit(unit.name, tuple(unit.sizes[variant] for variant in left)) for unit, left in zip(units, kept, strict=True)
    ]


def predicted_losses(sensitivity: Sensitivity, kept: Kept) -> tuple[float, Sensitivity]:
    """Return the loss that the best of what is left adds, and the cost of every transition that is left."""
    totals = [tuple(accumulate(costs, initial=0.0)) for costs in sensitivity]
    base = sum(total[left[0]] for total, left in zip(totals, kept, strict=True))
    costs = tuple(
        tuple(total[low] - total[high] for high, low in pairwise(left))
        for total, left in zip(totals, kept, strict=True)
    )
    return base, costs


def predicted_curve(units: Sequence[Unit], sensitivity: Sensitivity, kept: Kept) -> tuple[list[int], list[float]]:
    """Return footprints and added losses along greedy-by-sensitivity through what is left.

    Args:
        units: As they were.
        sensitivity: Their costs.
        kept: The choice.
    """
    loss, costs = predicted_losses(sensitivity, kept)
    left = pruned_units(units, kept)
    footprints, losses = [footprint(left, best(left))], [loss]
    state = [0] * len(left)
    for unit in greedy_order(left, costs):
        sizes, step = left[unit].sizes, state[unit]
        footprints.append(footprints[-1] - sizes[step] + sizes[step + 1])
        losses.append(losses[-1] + costs[unit][step])
        state[unit] += 1
    return footprints, losses


def mean_loss(footprints: Sequence[int], losses: Sequence[float], low: int, up: int) -> float:
    """Return the loss that a user meets on average if every footprint allowed between `low` and `up` is equally likely.

    Linear between neighbouring positions. Where more is allowed than position 0 takes, the model stays there.

    Args:
        footprints: At positions 0..N, falling.
        losses: At the same positions.
        low: Least bytes that are allowed; not less than the smallest footprint.
        up: Most bytes that are allowed, more than `low`.
    """
    total = max(0, up - max(low, footprints[0])) * losses[0]
    for (high, less), (before, after) in zip(pairwise(footprints), pairwise(losses), strict=True):
        start, end = min(high, up), max(less, low)
        if start > end:
            slope = (after - before) / (high - less)
            total += (start - end) * (before + slope * (high - (start + end) / 2))
    return total / (up - low)


def prune(
    units: Sequence[Unit],
    sensitivity: Sensitivity,
    keep: End,
    *,
    least_bytes: int = 0,
    least_variants: int = 0,
    nested: bool = False,
) -> Pruned:
    """Drop variants, those first that cost least per byte of disk, until enough are gone.

    With `keep="smallest"` every unit keeps its smallest variant, so that memory can be given back as far as before:
    best variants of units that are lowered early go first, and variants between two others. With `keep="best"` every
    unit keeps its best variant: the sequence loses its end, from the dearest step on.

    Of nested variants only the best one that is left can go, because the others are parts of it.

    Args:
        units: What a sequence lowers; sizes are those on the disk, of nested variants with what they are added to.
        sensitivity: Their costs.
        keep: The end of the range that is promised.
        least_bytes: To drop at least.
        least_variants: To drop at least.
        nested: Whether variants are added to the next ones.

    Raises:
        ValueError: So much cannot go while the promised end stays and a transition is left.
    """
    if nested and keep == "best":
        raise ValueError("all other variants are parts of the best one")
    candidates = _Candidates(units, sensitivity, nested=nested) if keep == "smallest" else _Tail(units, sensitivity)
    dropped_bytes = dropped_variants = 0
    while dropped_bytes < least_bytes or dropped_variants < least_variants:
        found = candidates.next()
        if found is None:
            break
        unit, variant = found
        dropped_bytes += _on_disk(units[unit], variant, nested=nested)
        dropped_variants += 1
        candidates.drop(unit, variant)
    enough = dropped_bytes >= least_bytes and dropped_variants >= least_variants
    if not enough or all(len(left) == 1 for left in candidates.kept):
        raise ValueError("so much cannot be dropped")
    return Pruned(tuple(map(tuple, candidates.kept)), dropped_bytes, dropped_variants)


def _on_disk(unit: Unit, variant: int, *, nested: bool) -> int:
    """What leaves the disk with a variant."""
    return unit.sizes[variant] - (unit.sizes[variant + 1] if nested else 0)


class _Tail:
    """The smallest variants that are left, dearest last step per byte first."""

    def __init__(self, units: Sequence[Unit], sensitivity: Sensitivity) -> None:
        self._units = units
        self._sensitivity = sensitivity
        self.kept = [list(range(len(unit.sizes))) for unit in units]

    def next(self) -> tuple[int, int] | None:
        """Return the unit and the variant to drop next; None if every unit has only its best one."""
        able = [index for index, left in enumerate(self.kept) if len(left) > 1]
        return max(((index, self.kept[index][-1]) for index in able), key=self._dearness, default=None)

    def drop(self, unit: int, variant: int) -> None:
        """Take a variant out."""
        self.kept[unit].remove(variant)

    def _dearness(self, candidate: tuple[int, int]) -> float:
        unit, variant = candidate
        sizes = self._units[unit].sizes
        return self._sensitivity[unit][variant - 1] / (sizes[variant - 1] - sizes[variant])


class _Candidates:
    """All variants but the smallest, least predicted area per byte of disk first.

    What a candidate costs depends on what is gone already, and is predicted again when it seems to be the cheapest.
    """

    def __init__(self, units: Sequence[Unit], sensitivity: Sensitivity, *, nested: bool) -> None:
        self._units = units
        self._sensitivity = sensitivity
        self._nested = nested
        self.kept = [list(range(len(unit.sizes))) for unit in units]
        self._range = footprint(units, smallest(units)), footprint(units, best(units))
        self._area = 0.0
        self._round = 0
        self._heap: list[tuple[float, int, int, int]] = []
        self._measure()
        for index, unit in enumerate(units):
            for variant in range(min(unit.steps, 1) if nested else unit.steps):
                self._push(index, variant)

    def next(self) -> tuple[int, int] | None:
        """Return the unit and the variant to drop next; None if every unit has only its smallest one."""
        while self._heap:
            _, unit, variant, known = heapq.heappop(self._heap)
            if known == self._round:
                return unit, variant
            self._push(unit, variant)
        return None

    def drop(self, unit: int, variant: int) -> None:
        """Take a variant out."""
        self.kept[unit].remove(variant)
        self._round += 1
        self._measure()
        if self._nested and len(self.kept[unit]) > 1:
            self._push(unit, self.kept[unit][0])

    def _measure(self) -> None:
        self._area = self._predict()

    def _push(self, unit: int, variant: int) -> None:
        left = self.kept[unit]
        self.kept[unit] = [other for other in left if other != variant]
        added = self._predict() - self._area
        self.kept[unit] = left
        freed = _on_disk(self._units[unit], variant, nested=self._nested)
        heapq.heappush(self._heap, (added / freed, unit, variant, self._round))

    def _predict(self) -> float:
        return mean_loss(*predicted_curve(self._units, self._sensitivity, self.kept), *self._range)
