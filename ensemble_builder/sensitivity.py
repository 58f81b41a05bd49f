"""Module sensitivities: what each transition costs by itself, and the order that follows if costs simply add up."""

import heapq
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from flexquant.ensemble_builder.sequence import Assignment, Order, Unit, best

Sensitivity = tuple[tuple[float, ...], ...]
"""[unit][step]: loss added by lowering the unit from variant `step` to `step + 1`, all others at their best."""


def single_states(units: Sequence[Unit]) -> list[Assignment]:
    """Return every assignment with exactly one unit below its best; they are what sensitivities are measured on."""
    top = best(units)
    return [
        (*top[:index], variant, *top[index + 1 :])
        for index, unit in enumerate(units)
        for variant in range(1, unit.steps + 1)
    ]


def sensitivities(units: Sequence[Unit], losses: Mapping[Assignment, float]) -> Sensitivity:
    """Return the sensitivity of every transition from measured losses.

    Args:
        units: The units of the search.
        losses: Loss of the best assignment and of all `single_states`.
    """
    top = best(units)

    def of(index: int, unit: Unit) -> tuple[float, ...]:
        alone = [losses[(*top[:index], variant, *top[index + 1 :])] for variant in range(unit.steps + 1)]
        return tuple(after - before for before, after in pairwise(alone))

    return tuple(of(index, unit) for index, unit in enumerate(units))


def cost_per_byte(costs: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the lowest mean cost per byte over the next one, two, … steps of one unit.

    Looking further than one step matters where a dear step leads to a cheap one.

    Args:
        costs: Loss added by each remaining step, in order.
        sizes: Bytes before the first of them and after each; one more entry than `costs`.
    """
    return min(total / (sizes[0] - size) for total, size in zip(accumulate(costs), sizes[1:], strict=True))


def greedy_order(units: Sequence[Unit], sensitivity: Sensitivity) -> Order:
    """Return the order that lowers the cheapest unit per byte first.

    It is the order of least area if the costs of transitions add up: Smith's rule for jobs on one machine,
    with Horn's extension to chains (W. Horn, "Single-machine job sequencing with treelike precedence ordering", 1972).
    """
    state = list(best(units))
    order: list[int] = []

    def waiting(index: int) -> tuple[float, int]:
        return cost_per_byte(sensitivity[index][state[index] :], units[index].sizes[state[index] :]), index

    heap = [waiting(index) for index, unit in enumerate(units) if unit.steps]
    heapq.heapify(heap)
    while heap:
        unit = heap[0][1]
        order.append(unit)
        state[unit] += 1
        if state[unit] < units[unit].steps:
            heapq.heapreplace(heap, waiting(unit))
        else:
            heapq.heappop(heap)
    return tuple(order)
