"""One-way tree search for the sequence of least area under loss over footprint. Pure: measuring is passed in.

1. Sensitivities: every transition by itself. They are the prior, and greedy-by-sensitivity is the first stem.
2. Stems are walked from the best assignment down. At each state the transition that is cheapest per byte *at best*
   (expected cost less `confidence` standard deviations) is looked at: if its outcome is known, the stem takes it,
   otherwise it is measured. What is measured and not taken is a branch. Obvious steps so cost one evaluation, and
   doubtful ones share what is left of the budget.
3. A stem that met nothing unknown makes the next one less confident, until nothing promising is left or the budget
   is spent.
4. The result is the path of least area through all measured assignments, so it may change from one stem to another
   where they meet, and is never worse than greedy-by-sensitivity.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from flexquant.ensemble_builder.beliefs import Beliefs
from flexquant.ensemble_builder.sensitivity import (
    Sensitivity,
    cost_per_byte,
    greedy_order,
    sensitivities,
    single_states,
)
from flexquant.ensemble_builder.sequence import (
    Assignment,
    Order,
    Unit,
    area,
    best,
    footprint,
    lowered,
    smallest,
    states_along,
)

METHOD: Final = "tree search: upper-confidence stems and branches over mean KL"
MOST_DOUBTFUL: Final = 3
"""Standard deviations by which the last stems doubt what they expect."""


class Evaluate(Protocol):
    """Measures the loss of assignments."""

    def __call__(
        self, stem: Assignment, candidates: Sequence[Assignment], likely: Iterator[Assignment], /
    ) -> Sequence[float]:
        """Return the loss of each candidate.

        Args:
            stem: An assignment that was measured before, or is the first candidate.
            candidates: What to measure; they differ little from `stem` or from each other.
            likely: What will be asked for next, should all come as expected: for those who can measure it meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Args:
        order: The best sequence.
        losses: Loss at its positions 0..N.
        area: Its area under loss over footprint.
        greedy_area: The same for greedy-by-sensitivity.
        sensitivity: [unit][step].
        evaluations: Assignments that were measured.
    """

    order: Order
    losses: tuple[float, ...]
    area: float
    greedy_area: float
    sensitivity: Sensitivity
    evaluations: int


def least_evaluations(units: Sequence[Unit]) -> int:
    """Return the evaluations that any search needs: both ends, sensitivities, and greedy-by-sensitivity."""
    steps = sum(unit.steps for unit in units)
    return max(2 * steps, 1)


def search(units: Sequence[Unit], evaluate: Evaluate, *, go_on: Callable[[int], bool]) -> Found:
    """Search for the sequence of least area.

    Deterministic: the same losses and the same answers of `go_on` give the same result.

    Args:
        units: What transitions lower.
        evaluate: Measures losses; never asked for the same assignment twice.
        go_on: Asked with the number of evaluations so far before each further one beyond `least_evaluations`.
    """
    walk = _Walk(units, evaluate)
    greedy = greedy_order(units, walk.sensitivity)
    walk.follow(greedy)
    confidence = 0
    while confidence <= MOST_DOUBTFUL:
        known = len(walk.losses)
        if not walk.descend(confidence, go_on):
            break
        if len(walk.losses) == known:
            confidence += 1
    order = least_area_order(units, walk.losses)
    return Found(
        order=order,
        losses=tuple(walk.losses[state] for state in states_along(units, order)),
        area=order_area(units, order, walk.losses),
        greedy_area=order_area(units, greedy, walk.losses),
        sensitivity=walk.sensitivity,
        evaluations=len(walk.losses),
    )


def order_area(units: Sequence[Unit], order: Order, losses: Mapping[Assignment, float]) -> float:
    """Return the area under loss over footprint of `order`; all its assignments must have been measured."""
    states = states_along(units, order)
    return area([footprint(units, state) for state in states], [losses[state] for state in states])


def least_area_order(units: Sequence[Unit], losses: Mapping[Assignment, float]) -> Order:
    """Return the order of least area among those all of whose assignments were measured.

    Raises:
        ValueError: No such order leads from the best to the smallest assignment.
    """
    reached: dict[Assignment, tuple[float, Order]] = {best(units): (0.0, ())}
    for state in sorted(losses, key=lambda state: (sum(state), state)):
        if state not in reached:
            continue
        so_far, order = reached[state]
        for index, unit in enumerate(units):
            if state[index] == unit.steps:
                continue
            below = lowered(state, index)
            if below not in losses:
                continue
            saved = unit.sizes[state[index]] - unit.sizes[state[index] + 1]
            total = so_far + saved * (losses[state] + losses[below]) / 2
            if below not in reached or total < reached[below][0]:
                reached[below] = (total, (*order, index))
    if smallest(units) not in reached:
        raise ValueError("the measured assignments do not connect both ends")
    return reached[smallest(units)][1]


class _Walk:
    """The state of a search: every measured loss, and what is believed about the rest."""

    def __init__(self, units: Sequence[Unit], evaluate: Evaluate) -> None:
        self._units = units
        self._evaluate = evaluate
        self._top = best(units)
        self._bytes = [footprint(units, state) for state in (self._top, smallest(units))]
        self.losses: dict[Assignment, float] = {}
        self._measure(self._top, [self._top, *single_states(units)])
        self.sensitivity = sensitivities(units, self.losses)
        self._beliefs = Beliefs(self.sensitivity)

    def follow(self, order: Order) -> None:
        """Measure every assignment along `order`."""
        steps = list(zip(states_along(self._units, order), order, strict=False))
        unknown = [step for step in steps if lowered(*step) not in self.losses]
        self._measure(self._top, [lowered(*step) for step in unknown])
        for step in unknown:
            self._observe(*step)

    def descend(self, confidence: float, go_on: Callable[[int], bool]) -> bool:
        """Walk one stem from the best to the smallest assignment; False if `go_on` ended it early."""
        state = self._top
        end = smallest(self._units)
        while state != end:
            unit = self._most_promising(state, confidence)
            below = lowered(state, unit)
            if below in self.losses:
                state = below
            elif go_on(len(self.losses)):
                self._measure(state, [below], self._unknown_after(below, confidence))
                self._observe(state, unit)
            else:
                return False
        return True

    def _unknown_after(self, state: Assignment, confidence: float) -> Iterator[Assignment]:
        """Yield what the stem will want to be measured below `state`, should everything come as it is expected."""
        end = smallest(self._units)
        while state != end:
            state = lowered(state, self._most_promising(state, confidence))
            if state not in self.losses:
                yield state

    def _most_promising(self, state: Assignment, confidence: float) -> int:
        depth = self._depth(state)

        def promise(index: int) -> float:
            unit, step = self._units[index], state[index]
            expected = [self._beliefs.expect(index, later, depth) for later in range(step, unit.steps)]
            costs = [mean - confidence * spread for mean, spread in expected]
            below = lowered(state, index)
            if below in self.losses and state in self.losses:
                costs[0] = self.losses[below] - self.losses[state]
            return cost_per_byte(costs, unit.sizes[step:])

        return min((index for index, unit in enumerate(self._units) if state[index] < unit.steps), key=promise)

    def _observe(self, state: Assignment, unit: int) -> None:
        cost = self.losses[lowered(state, unit)] - self.losses[state]
        self._beliefs.observe(unit, state[unit], self._depth(state), cost)

    def _measure(
        self, stem: Assignment, candidates: Sequence[Assignment], likely: Iterator[Assignment] = iter(())
    ) -> None:
        self.losses.update(zip(candidates, self._evaluate(stem, candidates, likely), strict=True))

    def _depth(self, state: Assignment) -> float:
        up, low = self._bytes
        return (up - footprint(self._units, state)) / (up - low)
