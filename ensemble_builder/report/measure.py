"""Quality along routes, measured at some of their positions. Pure: measuring an assignment is passed in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from flexquant.ensemble_builder.evaluation import quality_of
from flexquant.ensemble_builder.report.orders import Route
from flexquant.ensemble_builder.sequence import Assignment, area
from flexquant.ensemble_builder.window_quality import WindowQuality

Measure = Callable[[Assignment], WindowQuality]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured position.

    Args:
        position: Of the route.
        footprint_bytes: Resident bytes there.
        quality: On the report's text, window by window.
    """

    position: int
    footprint_bytes: int
    quality: WindowQuality

    @property
    def perplexity(self) -> float:
        """On the report's text."""
        return quality_of(self.quality).perplexity

    @property
    def kl(self) -> float:
        """Mean KL divergence from the reference, in nats per token."""
        return quality_of(self.quality).kl

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "position": self.position,
            "footprint_bytes": self.footprint_bytes,
            "perplexity": self.perplexity,
            "kl": self.kl,
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """A route with its measured positions.

    Args:
        route: The route.
        points: From position 0 to the last one.
    """

    route: Route
    points: tuple[Point, ...]

    @property
    def area(self) -> float:
        """Area under KL over footprint, linear between the measured positions."""
        return area([point.footprint_bytes for point in self.points], [point.kl for point in self.points])

    @property
    def stepped_area(self) -> float:
        """The same with nothing between the measured positions: the next smaller one is taken instead."""
        sizes, losses = [point.footprint_bytes for point in self.points], [point.kl for point in self.points]
        steps = zip(pairwise(sizes), losses[1:], strict=True)
        return sum((high - low) * after for (high, low), after in steps) / (sizes[0] - sizes[-1])

    @property
    def window_areas(self) -> tuple[float, ...]:
        """The same by the KL of each window alone; their mean is the area."""
        sizes = [point.footprint_bytes for point in self.points]
        by_window = zip(*(point.quality.kl for point in self.points), strict=True)
        return tuple(area(sizes, losses) for losses in by_window)

    @property
    def area_doubt(self) -> float:
        """How far the area may be from that over all positions; 0 if all were measured.

        Estimated as for any trapezoidal rule: with half of the points its error is about four times as large, so a
        third of the difference is what is left.
        """
        if len(self.points) == len(self.route.states):
            return 0.0
        half = [*self.points[:-1:2], self.points[-1]]
        return abs(area([point.footprint_bytes for point in half], [point.kl for point in half]) - self.area) / 3

    def kl_at(self, footprint_bytes: float) -> float:
        """Return KL at a footprint between the ends, linear between the measured positions."""
        return self._between(footprint_bytes, [point.kl for point in self.points])

    def perplexity_at(self, footprint_bytes: float) -> float:
        """Return perplexity at a footprint between the ends, linear between the measured positions."""
        return self._between(footprint_bytes, [point.perplexity for point in self.points])

    def _between(self, footprint_bytes: float, figures: Sequence[float]) -> float:
        sizes = [point.footprint_bytes for point in self.points]
        for at in range(1, len(sizes)):
            if footprint_bytes >= sizes[at]:
                share = (sizes[at - 1] - footprint_bytes) / (sizes[at - 1] - sizes[at])
                return figures[at - 1] + share * (figures[at] - figures[at - 1])
        return figures[-1]


def spread_footprints(footprints: Sequence[int], between: int) -> list[float]:
    """Return `between` footprints, evenly spread between both ends, without the ends, from large to small."""
    up, low = footprints[0], footprints[-1]
    return [up - (up - low) * step / (between + 1) for step in range(1, between + 1)]


def positions_near(footprints: Sequence[int], between: int) -> list[int]:
    """Return both ends and the positions nearest to `between` evenly spread footprints; all if those are as many."""
    last = len(footprints) - 1
    if between >= last - 1:
        return list(range(last + 1))
    targets = spread_footprints(footprints, between)
    nearest = {min(range(last + 1), key=lambda at: abs(footprints[at] - target)) for target in targets}
    return sorted({0, last} | nearest)


def states_to_measure(routes: Sequence[Route], between: int) -> list[Assignment]:
    """Return every assignment that `measure_routes` asks for, once."""
    return list(dict.fromkeys(route.states[at] for route in routes for at in positions_near(route.footprints, between)))


def measure_routes(routes: Sequence[Route], between: int, measure: Measure) -> list[Curve]:
    """Measure every route at both ends and at about `between` positions between them.

    Args:
        routes: Routes.
        between: See `positions_near`.
        measure: Measures an assignment; asked once for each, though routes share some.
    """
    known: dict[Assignment, WindowQuality] = {}

    def point(route: Route, position: int) -> Point:
        state = route.states[position]
        if state not in known:
            known[state] = measure(state)
        return Point(position, route.footprints[position], known[state])

    return [
        Curve(route, tuple(point(route, at) for at in positions_near(route.footprints, between))) for route in routes
    ]
