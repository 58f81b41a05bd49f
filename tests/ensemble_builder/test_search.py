"""The search on synthetic landscapes, additive and not."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.search import Found, least_area_order, least_evaluations, order_area, search
from flexquant.ensemble_builder.sensitivity import greedy_order
from flexquant.ensemble_builder.sequence import Assignment, Unit, best, lowered, smallest, states_along

Loss = Callable[[Assignment], float]


def random_units(count: int, variants: int, rng: random.Random) -> list[Unit]:
    def sizes() -> tuple[int, ...]:
        return tuple(sorted(rng.sample(range(1, 1000), variants), reverse=True))

    return [Unit(f"unit {index}", sizes()) for index in range(count)]


def landscape(units: Sequence[Unit], interaction: float, rng: random.Random) -> Loss:
    """Squared length of a sum of error vectors: additive without `interaction`, far from it with 1."""
    errors = [[[rng.gauss(0, 1) for _ in range(6)] for _ in unit.sizes] for unit in units]
    scale = [rng.lognormvariate(0, 1) for _ in units]

    def loss(state: Assignment) -> float:
        total, alone = [0.0] * 6, 0.0
        for index, variant in enumerate(state):
            for level in range(variant):
                error = [scale[index] * (level + 1) * part for part in errors[index][level]]
                total = [sum(pair) for pair in zip(total, error, strict=True)]
                alone += sum(part * part for part in error)
        return (1 - interaction) * alone + interaction * sum(part * part for part in total)

    return loss


class Counted:
    """An evaluation that counts what it is asked for, and stops at a limit as a kill would."""

    def __init__(self, loss: Loss, known: dict[Assignment, float] | None = None, limit: int = 10**9) -> None:
        self.loss = loss
        self.known = {} if known is None else known
        self.asked: Counter[Assignment] = Counter()
        self.limit = limit

    def __call__(
        self, _stem: Assignment, candidates: Sequence[Assignment], _likely: Iterator[Assignment]
    ) -> list[float]:
        return [self._one(candidate) for candidate in candidates]

    def _one(self, state: Assignment) -> float:
        if state not in self.known:
            if sum(self.asked.values()) == self.limit:
                raise KeyboardInterrupt
            self.asked[state] += 1
            self.known[state] = self.loss(state)
        return self.known[state]


def exhaustive_greedy(units: Sequence[Unit], loss: Loss) -> float:
    """Return the area of the order that tries every candidate at every step."""
    state, order = best(units), []
    losses = {state: loss(state)}
    while state != smallest(units):
        options = [index for index, unit in enumerate(units) if state[index] < unit.steps]
        gains = {}
        for index in options:
            sizes = units[index].sizes
            losses[lowered(state, index)] = loss(lowered(state, index))
            saved = sizes[state[index]] - sizes[state[index] + 1]
            gains[index] = (losses[lowered(state, index)] - losses[state]) / saved
        order.append(min(options, key=lambda index: gains[index]))
        state = lowered(state, order[-1])
    return order_area(units, tuple(order), losses)


problems = st.tuples(st.integers(0, 2**32), st.integers(1, 9), st.integers(2, 3), st.floats(0, 1), st.integers(0, 60))


def solve(seed: int, count: int, variants: int, interaction: float, extra: int) -> tuple[list[Unit], Counted, Found]:
    rng = random.Random(seed)
    units = random_units(count, variants, rng)
    counted = Counted(landscape(units, interaction, rng))
    most = least_evaluations(units) + extra
    return units, counted, search(units, counted, go_on=lambda spent: spent < most)


@settings(deadline=None, max_examples=60)
@given(problems)
def test_every_unit_takes_every_step_once_and_in_order(problem: tuple[int, int, int, float, int]) -> None:
    units, _, found = solve(*problem)
    assert Counter(found.order) == Counter({index: unit.steps for index, unit in enumerate(units)})
    assert states_along(units, found.order)[-1] == smallest(units)
    assert len(found.losses) == len(found.order) + 1


@settings(deadline=None, max_examples=60)
@given(problems)
def test_never_worse_than_greedy_by_sensitivity(problem: tuple[int, int, int, float, int]) -> None:
    units, counted, found = solve(*problem)
    greedy = order_area(units, greedy_order(units, found.sensitivity), counted.known)
    assert found.greedy_area == greedy
    assert found.area <= greedy * (1 + 1e-12)
    assert found.area == pytest.approx(order_area(units, found.order, counted.known))


@settings(deadline=None, max_examples=60)
@given(problems)
def test_the_budget_bounds_evaluations_and_none_is_repeated(problem: tuple[int, int, int, float, int]) -> None:
    units, counted, found = solve(*problem)
    assert found.evaluations == len(counted.asked) <= least_evaluations(units) + problem[4]
    assert max(counted.asked.values()) == 1


@settings(deadline=None, max_examples=30)
@given(problems)
def test_same_landscape_same_result(problem: tuple[int, int, int, float, int]) -> None:
    assert solve(*problem)[2] == solve(*problem)[2]


@settings(deadline=None, max_examples=40)
@given(problems, st.floats(0, 1))
def test_killed_and_resumed_it_finds_the_same_and_repeats_nothing(
    problem: tuple[int, int, int, float, int], at: float
) -> None:
    units, whole, undisturbed = solve(*problem)
    most = least_evaluations(units) + problem[4]
    journal: dict[Assignment, float] = {}
    killed = Counted(whole.loss, journal, limit=int(at * (len(whole.asked) - 1)))
    with pytest.raises(KeyboardInterrupt):
        search(units, killed, go_on=lambda spent: spent < most)
    resumed = Counted(whole.loss, journal)
    assert search(units, resumed, go_on=lambda spent: spent < most) == undisturbed
    assert killed.asked + resumed.asked == whole.asked


def test_near_exhaustive_greedy_at_a_fifth_of_its_evaluations() -> None:
    rng = random.Random(1)
    units = random_units(40, 2, rng)
    loss = landscape(units, 0.5, rng)
    most = 40 * 41 // 2 // 5
    found = search(units, Counted(loss), go_on=lambda spent: spent < most)
    practical_optimum = exhaustive_greedy(units, loss)
    assert found.greedy_area > 1.05 * practical_optimum, "the landscape is too easy to tell"
    assert found.area <= 1.02 * practical_optimum


def test_an_additive_landscape_costs_few_evaluations() -> None:
    rng = random.Random(2)
    units = random_units(40, 2, rng)
    found = search(units, Counted(landscape(units, 0.0, rng)), go_on=lambda _: True)
    assert found.evaluations <= 4 * 40


def test_the_result_may_cross_from_one_stem_to_another() -> None:
    units = [Unit(name, (2, 1)) for name in "abc"]
    losses: dict[Assignment, float] = {(0, 0, 0): 0.0, (1, 1, 1): 9.0}
    losses |= {(1, 0, 0): 5.0, (0, 1, 0): 1.0, (1, 1, 0): 6.0}
    losses |= {(1, 0, 1): 5.5, (0, 1, 1): 8.0}
    assert least_area_order(units, losses) == (1, 0, 2)
    with pytest.raises(ValueError, match="do not connect"):
        least_area_order(units, {(0, 0, 0): 0.0, (1, 1, 1): 9.0})


def test_units_that_cannot_be_lowered_make_an_empty_sequence() -> None:
    found = search([Unit("only", (5,))], Counted(lambda _: 0.5), go_on=lambda _: True)
    assert (found.order, found.losses, found.area, found.evaluations) == ((), (0.5,), 0.5, 1)
