"""How the cost of a search grows with the model."""

import math
import random

import pytest

from flexquant.ensemble_builder.search import search
from flexquant.ensemble_builder.search_cost import search_cost
from flexquant.ensemble_builder.sequence import Assignment, Unit

MOST_PER_N_LOG_N = 1.5


def model(layers: int, rng: random.Random) -> list[Unit]:
    return [
        Unit(f"{layer}.{at}", (rng.randrange(60, 100), rng.randrange(20, 50)))
        for layer in range(layers)
        for at in range(7)
    ]


@pytest.mark.parametrize("layers", [4, 8, 16, 32])
def test_evaluations_grow_no_faster_than_n_log_n(layers: int) -> None:
    """Without a budget. Costs differ by module and grow with what is lowered already, in a layer above all."""
    rng = random.Random(layers)
    units = model(layers, rng)
    alone = [rng.lognormvariate(0, 1) for _ in units]
    asked: set[Assignment] = set()

    def loss(state: Assignment) -> float:
        per_layer = [sum(alone[at] for at in range(7 * i, 7 * i + 7) if state[at]) for i in range(layers)]
        total = sum(per_layer)
        return total + 0.02 * sum(cost**2 for cost in per_layer) + 0.1 * total**2 / sum(alone)

    def evaluate(_stem: object, candidates: list[Assignment], _likely: object) -> list[float]:
        asked.update(candidates)
        return [loss(candidate) for candidate in candidates]

    found = search(units, evaluate, go_on=lambda _: True)  # type: ignore[arg-type]
    count = len(units)
    assert found.evaluations == len(asked) <= MOST_PER_N_LOG_N * count * math.log2(count)


def test_cost_is_evaluations_times_forward_time() -> None:
    units = [Unit("a", (9, 5)), Unit("b", (9, 5, 1))]
    found = search_cost(units, forward_seconds=30)
    assert (found.least_evaluations, found.most_evaluations) == (6, 15)
    assert (found.least_minutes, found.most_minutes) == (3.0, 7.5)
    assert search_cost(units, forward_seconds=30, workers=2).most_minutes == 3.75
