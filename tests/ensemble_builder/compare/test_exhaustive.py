"""Exhaustive greedy: what it takes, what it asks for, and how it goes on after a kill."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.manifest import Quality
from flexquant.ensemble_builder.compare.exhaustive import (
    Exhaustive,
    evaluations_of,
    exhaustive_order,
    measured_exhaustive,
)
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.sequence import Assignment, Unit, smallest, states_along

UNITS = [Unit("a", (30, 10)), Unit("b", (20, 10)), Unit("c", (50, 40, 20))]
COSTS = {"a": (0.4,), "b": (0.1,), "c": (0.3, 0.1)}


def additive(state: Assignment) -> float:
    """Costs that add up."""
    return sum(sum(COSTS[unit.name][:variant]) for unit, variant in zip(UNITS, state, strict=True))


def test_the_cheapest_per_byte_goes_first_at_every_step() -> None:
    asked: list[Assignment] = []

    def loss(stem: Assignment, state: Assignment) -> float:
        assert sum(abs(there - here) for there, here in zip(state, stem, strict=True)) <= 1
        asked.append(state)
        return additive(state)

    # Per byte: a 0.02, b 0.01, c 0.03 and then 0.005.
    assert exhaustive_order(UNITS, loss) == (1, 0, 2, 2)
    assert asked == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 2)]


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(st.integers(0, 3), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_every_order_is_whole_and_no_dearer_than_promised(steps: list[int], seed: int) -> None:
    units = [Unit(str(at), tuple(range(10 * count, -1, -10))) for at, count in enumerate(steps)]
    known: dict[Assignment, float] = {}
    rng = random.Random(seed)

    def loss(_: Assignment, state: Assignment) -> float:
        return known.setdefault(state, rng.random())

    order = exhaustive_order(units, loss)
    assert states_along(units, order)[-1] == smallest(units)
    assert len(known) <= evaluations_of(units)
    if max(steps) <= 1:
        assert len(known) == evaluations_of(units)


def test_57_modules_take_1654_evaluations() -> None:
    assert evaluations_of([Unit(str(at), (2, 1)) for at in range(57)]) == 1654


def test_a_killed_run_measures_nothing_twice(tmp_path: Path) -> None:
    def run(most: int) -> Exhaustive:
        measured = 0

        def evaluation(_: Assignment, candidates: Sequence[Assignment]) -> list[Quality]:
            nonlocal measured
            if measured == most:
                raise KeyboardInterrupt
            measured += 1
            return [Quality(perplexity=10.0, kl=additive(state)) for state in candidates]

        return measured_exhaustive(UNITS, evaluation, tmp_path / "journal", "f", Progress())

    with pytest.raises(KeyboardInterrupt):
        run(3)
    for most in (5, 0):
        found = run(most)
        assert (found.order, found.evaluations) == ((1, 0, 2, 2), 8)
