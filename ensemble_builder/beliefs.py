"""What the search believes a transition costs where it has not been measured yet.

The cost of a transition changes slowly as other modules are lowered. It is modelled as a random walk with drift over
depth (the share of the saved bytes that is already saved): the nearest measurement is the best guess, and the doubt
grows with the square root of the distance from it. Drift and roughness are learned from pairs of measurements of the
same transition, so a landscape that turns out to be additive soon needs no more exploring.
"""

from bisect import bisect_left, insort
from typing import Final

from flexquant.ensemble_builder.sensitivity import Sensitivity

PRIOR_ROUGHNESS: Final = 0.5
"""Relative change of a cost over the whole depth that is expected before anything was measured twice."""
PRIOR_WEIGHT: Final = 4.0
"""How many pairs of measurements the prior counts for."""
SHORTEST: Final = 0.01
"""Measurements nearer to each other than this share of the depth tell about noise rather than about drift."""


class Beliefs:
    """Costs of transitions, measured and expected.

    Args:
        sensitivity: [unit][step], taken as measured at depth 0.
    """

    def __init__(self, sensitivity: Sensitivity) -> None:
        self._seen = {
            (unit, step): [(0.0, cost)] for unit, costs in enumerate(sensitivity) for step, cost in enumerate(costs)
        }
        costs = [abs(cost) for costs in sensitivity for cost in costs]
        self._least = max(sum(costs) / max(len(costs), 1) / 100, 1e-12)
        self._change = self._distance = self._squares = 0.0
        self._pairs = 0

    def observe(self, unit: int, step: int, depth: float, cost: float) -> None:
        """Take note of the measured cost of lowering `unit` from variant `step` at `depth` in [0, 1]."""
        seen = self._seen[unit, step]
        near_depth, near_cost = self._nearest(seen, depth)
        distance = max(abs(depth - near_depth), SHORTEST)
        change = (cost - near_cost) / max(abs(near_cost), self._least)
        if depth < near_depth:
            change = -change
        self._change += change
        self._distance += distance
        self._squares += change * change / distance
        self._pairs += 1
        insort(seen, (depth, cost))

    def expect(self, unit: int, step: int, depth: float) -> tuple[float, float]:
        """Return mean and standard deviation of the cost of lowering `unit` from variant `step` at `depth`."""
        near_depth, near_cost = self._nearest(self._seen[unit, step], depth)
        size = max(abs(near_cost), self._least)
        distance = depth - near_depth
        drift, roughness = self._walk()
        return near_cost + size * drift * distance, size * roughness * abs(distance) ** 0.5

    def _walk(self) -> tuple[float, float]:
        """Return drift and roughness per unit of depth: the maximum of their likelihood, held back by the prior."""
        drift = self._change / (self._distance + 1)
        squares = self._squares - 2 * drift * self._change + drift * drift * self._distance
        return drift, ((squares + PRIOR_WEIGHT * PRIOR_ROUGHNESS**2) / (self._pairs + PRIOR_WEIGHT)) ** 0.5

    @staticmethod
    def _nearest(seen: list[tuple[float, float]], depth: float) -> tuple[float, float]:
        at = bisect_left(seen, (depth,))
        return min(seen[max(at - 1, 0) : at + 1], key=lambda entry: abs(entry[0] - depth))
