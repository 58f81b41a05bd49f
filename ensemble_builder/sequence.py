"""Sequences of transitions as plain data: assignments, footprints, and the area that scores them.

An assignment says which variant every unit has; a sequence is an order in which units are lowered by one variant
each. Sequences only go down: position 0 has every unit at its best variant, position N at its smallest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Assignment = tuple[int, ...]
"""Variant index of every unit."""

Order = tuple[int, ...]
"""Index of the unit that each transition lowers by one variant."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one transition lowers: a module, or several modules that are swapped together.

    Args:
        name: Name for people.
        sizes: Payload bytes of each variant, from best to smallest; strictly falling.
    """

    name: str
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or any(low >= high for high, low in pairwise(self.sizes)):
            raise ValueError(f"unit {self.name}: sizes {self.sizes} do not fall strictly")

    @property
    def steps(self) -> int:
        """Transitions that this unit takes on its way from best to smallest."""
        return len(self.sizes) - 1


def best(units: Sequence[Unit]) -> Assignment:
    """Return the assignment at position 0."""
    return (0,) * len(units)


def smallest(units: Sequence[Unit]) -> Assignment:
    """Return the assignment at position N."""
    return tuple(unit.steps for unit in units)


def lowered(state: Assignment, unit: int) -> Assignment:
    """Return `state` with `unit` one variant lower."""
    return (*state[:unit], state[unit] + 1, *state[unit + 1 :])


def states_along(units: Sequence[Unit], order: Order) -> list[Assignment]:
    """Return the assignments at positions 0..N of `order`."""
    return list(accumulate(order, lowered, initial=best(units)))


def footprint(units: Sequence[Unit], state: Assignment) -> int:
    """Return the payload bytes of all units at `state`."""
    return sum(unit.sizes[variant] for unit, variant in zip(units, state, strict=True))


def area(footprints: Sequence[int], losses: Sequence[float]) -> float:
    """Return the area under loss over footprint between the two ends, the footprint's range scaled to 1.

    This is the loss that a user meets on average if every footprint between the ends is equally likely.
    Linear between neighbouring positions. With no range at all the area is the loss itself.
    """
    span = footprints[0] - footprints[-1]
    if span == 0:
        return losses[0]
    steps = zip(pairwise(footprints), pairwise(losses), strict=True)
    return sum((high - low) * (before + after) / 2 for (high, low), (before, after) in steps) / span
