"""What the measured curves say: areas per method, and plain words on where the ensemble's sequence wins and loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from flexquant.ensemble_builder.bootstrap import Interval, mean_interval, ratio_interval
from flexquant.ensemble_builder.report.measure import Curve, spread_footprints
from flexquant.ensemble_builder.report.orders import NAMES, OWN, WHOLE

PRACTICALLY_EQUAL: Final = 0.01
"""Relative difference of areas up to which two orders are called practically equal."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method over all of its draws.

    Args:
        name: A key of `NAMES`.
        curves: One, or one per random draw.
        footprints: Evenly spread between the ends, from large to small.
        kl: At each of the footprints; of several draws the mean.
        kl_range: At each of the footprints: least and most over the draws.
        perplexity: As `kl`.
        perplexity_range: As `kl_range`.
        area: Area under KL over footprint; of several draws the mean.
        area_range: Least and most over the draws.
        area_doubt: See `Curve`; of several draws the mean.
        window_areas: See `Curve`; of several draws the means.
    """

    name: str
    curves: tuple[Curve, ...]
    footprints: tuple[float, ...]
    kl: tuple[float, ...]
    kl_range: tuple[tuple[float, float], ...]
    perplexity: tuple[float, ...]
    perplexity_range: tuple[tuple[float, float], ...]
    area: float
    area_range: tuple[float, float]
    area_doubt: float
    window_areas: tuple[float, ...]

    @property
    def area_interval(self) -> Interval:
        """95 % interval of the area over windows."""
        return mean_interval(self.window_areas)

    def area_over(self, other: "Method") -> tuple[float, Interval]:
        """Area over another method's, with the 95 % interval over windows that both share."""
        return self.area / other.area, ratio_interval(self.window_areas, other.window_areas)

    @property
    def label(self) -> str:
        """Name for people."""
        return NAMES[self.name] if len(self.curves) == 1 else f"{NAMES[self.name]}, mean of {len(self.curves)}"


def methods_of(curves: Sequence[Curve], between: int) -> list[Method]:
    """Gather curves by method, in the order in which methods first appear.

    Args:
        curves: All with the same two ends.
        between: How many footprints between the ends to compare methods at.
    """
    names = dict.fromkeys(curve.route.method for curve in curves)
    return [_method(name, [curve for curve in curves if curve.route.method == name], between) for name in names]


def _method(name: str, curves: Sequence[Curve], between: int) -> Method:
    ends = curves[0].route.footprints
    grid = (float(ends[0]), *spread_footprints(ends, between), float(ends[-1]))
    kl = [[curve.kl_at(size) for curve in curves] for size in grid]
    perplexity = [[curve.perplexity_at(size) for curve in curves] for size in grid]
    areas = [curve.area for curve in curves]
    return Method(
        name=name,
        curves=tuple(curves),
        footprints=grid,
        kl=tuple(map(fmean, kl)),
        kl_range=tuple((min(draws), max(draws)) for draws in kl),
        perplexity=tuple(map(fmean, perplexity)),
        perplexity_range=tuple((min(draws), max(draws)) for draws in perplexity),
        area=fmean(areas),
        area_range=(min(areas), max(areas)),
        area_doubt=fmean(curve.area_doubt for curve in curves),
        window_areas=tuple(map(fmean, zip(*(curve.window_areas for curve in curves), strict=True))),
    )


def verdicts(methods: Sequence[Method]) -> list[str]:
    """Return one sentence on each other method against the ensemble's own sequence."""
    own = next(method for method in methods if method.name == OWN)
    return [_verdict(own, method) for method in methods if method is not own]


def _verdict(own: Method, other: Method) -> str:
    if [curve.route.states for curve in other.curves] == [curve.route.states for curve in own.curves]:
        return f"{_capital(other.label)} is the same order as the ensemble's sequence: the search wins nothing over it."
    if own.area <= 0:
        return f"{_capital(other.label)}: not compared, because the sequence's own area is not above 0."
    more = other.area / own.area - 1
    doubt = (own.area_doubt + other.area_doubt) / own.area
    if doubt > 0 and abs(more) < doubt:
        return (
            f"{_capital(other.label)} cannot be told from the ensemble's sequence: the areas differ by "
            f"{percent(abs(more))}, and between the measured positions {percent(doubt)} may be hidden. "
            "Measure more with --points."
        )
    if abs(more) < 5e-5:
        said = "the same area under KL as the ensemble's sequence: the search wins nothing over it"
    else:
        said = f"{percent(abs(more))} {'more' if more > 0 else 'less'} area under KL than the ensemble's sequence"
        if abs(more) < PRACTICALLY_EQUAL:
            said += ": practically equal"
        elif more < 0:
            said += ": the sequence does not win here"
    inner = range(1, len(own.footprints) - 1)
    better = sum(other.kl[at] < own.kl[at] for at in inner)
    where = f"; it has the lower KL at {better} of {len(inner)} footprints compared" if inner else ""
    return f"{_capital(other.label)} has {said}{where}.{_chance(other, own)}{_in_steps(own, other)}"


def _in_steps(own: Method, other: Method) -> str:
    """What the whole model at one width costs where no width fits exactly; nothing of other orders."""
    if other.name != WHOLE:
        return ""
    widths = len(other.curves[0].points)
    return (
        f" That takes its {widths} measured widths as mixed in between, as only a sequence can; where the next smaller "
        f"one is taken instead, its area is {other.curves[0].stepped_area / own.area:.2f}x the sequence's."
    )


def _chance(other: Method, own: Method) -> str:
    """How much of the difference may be chance; nothing where one window cannot tell."""
    if len(own.window_areas) < 2:
        return ""
    _, (low, high) = other.area_over(own)
    said = f" Over the windows of the text its area is {low:.3f}x to {high:.3f}x the sequence's (95 %)"
    return f"{said}: on another text it may be the other way round." if low <= 1 <= high else f"{said}."


def percent(share: float) -> str:
    """Return a share as a person reads it: "0.2 %", "85 %"."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
