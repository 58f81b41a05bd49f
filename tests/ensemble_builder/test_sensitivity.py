"""Sensitivities and the order they lead to."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.search import order_area
from flexquant.ensemble_builder.sensitivity import cost_per_byte, greedy_order, sensitivities, single_states
from flexquant.ensemble_builder.sequence import Assignment, Unit, smallest, states_along


def test_sensitivity_is_the_difference_between_neighbouring_variants() -> None:
    units = (Unit("a", (10, 5)), Unit("b", (10, 6, 3)))
    losses: dict[Assignment, float] = {(0, 0): 0.5, (1, 0): 0.75, (0, 1): 1.0, (0, 2): 3.0}
    assert set(single_states(units)) == set(losses) - {(0, 0)}
    assert sensitivities(units, losses) == ((0.25,), (0.5, 2.0))


def test_cost_per_byte_looks_past_a_dear_step() -> None:
    assert cost_per_byte([4.0, 0.0], [10, 8, 2]) == 0.5
    assert cost_per_byte([1.0, 9.0], [10, 8, 2]) == 0.5


def test_cheap_steps_come_first() -> None:
    units = (Unit("dear", (10, 5)), Unit("cheap", (10, 5)), Unit("free", (10, 9)))
    assert greedy_order(units, ((1.0,), (0.1,), (0.0,))) == (2, 1, 0)


small_units = st.lists(
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=0, max_size=2), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=60)
@given(small_units)
def test_greedy_is_optimal_where_costs_add_up(steps: list[list[tuple[int, float]]]) -> None:
    """Against every valid order of small problems with up to three variants per unit."""
    units = [
        Unit(str(index), tuple(1 + sum(saved for saved, _ in unit[at:]) for at in range(len(unit) + 1)))
        for index, unit in enumerate(steps)
    ]
    costs = tuple(tuple(cost for _, cost in unit) for unit in steps)

    def loss(state: Assignment) -> float:
        return sum(sum(costs[index][:variant]) for index, variant in enumerate(state))

    orders = set(itertools.permutations([index for index, unit in enumerate(units) for _ in range(unit.steps)]))
    losses = {state: loss(state) for order in orders for state in states_along(units, order)}
    greedy = greedy_order(units, costs)
    assert states_along(units, greedy)[-1] == smallest(units)
    assert order_area(units, greedy, losses) <= min(order_area(units, order, losses) for order in orders) + 1e-9
