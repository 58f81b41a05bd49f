"""From samples to figures. Pure."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of some rounds, with the least and the most of them."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Raises ValueError without samples."""
        if not samples:
            raise ValueError("a figure needs samples")
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))

    @classmethod
    def exact(cls, value: float) -> Self:
        """A figure that one run gives as a whole, such as a percentile."""
        return cls(value, value, value, 1)


def percentile(samples: Sequence[float], share: float) -> float:
    """The least sample that at least this share of all samples does not exceed (nearest rank).

    Args:
        samples: At least one.
        share: Above 0, up to 1.
    """
    if not samples or not 0 < share <= 1:
        raise ValueError(f"a percentile of {len(samples)} samples at {share}")
    ordered = sorted(samples)
    return ordered[math.ceil(share * len(ordered)) - 1]


def worst_deviation(x: Sequence[float], y: Sequence[float]) -> float:
    """Largest |y - line(x)| / line(x) over all points, for the straight line of least squares.

    Args:
        x: At least two different values.
        y: As many, positive.
    """
    slope, intercept = statistics.linear_regression(x, y)
    return max(abs(b - (intercept + slope * a)) / (intercept + slope * a) for a, b in zip(x, y, strict=True))


def spread_positions(last: int, count: int) -> list[int]:
    """`count` positions from 0 to `last`, both included, as evenly as whole numbers can lie."""
    if count < 2 or last < 1:
        raise ValueError(f"{count} positions from 0 to {last}")
    return sorted({round(index * last / (count - 1)) for index in range(count)})


def rate_together(streams: Sequence[tuple[Sequence[float], int]]) -> float:
    """Tokens per second of all streams, over the time in which all of them run.

    That is from when the last of them gets its first part to when the first of them gets its last one.

    Args:
        streams: Of each, the times at which its parts arrived, ascending, and the tokens in all parts together.

    Raises:
        ValueError: There was no such time.
    """
    begin, end = max(times[0] for times, _ in streams), min(times[-1] for times, _ in streams)
    if end <= begin:
        raise ValueError("the streams did not run at the same time")
    tokens = sum(sum(begin < time <= end for time in times) * count / len(times) for times, count in streams)
    return tokens / (end - begin)


def gaps(times: Sequence[float], begin: float, end: float) -> list[float]:
    """Times between neighbours in `times`, ascending, of those that overlap with `begin` to `end`."""
    return [after - before for before, after in pairwise(times) if before < end and after > begin]


def by_key(pairs: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    """The values of every key, in their order."""
    grouped: dict[int, list[float]] = {}
    for key, value in pairs:
        grouped.setdefault(key, []).append(value)
    return grouped


def over_baseline(samples: Iterable[tuple[int, float]], baseline: Mapping[int, float]) -> list[float]:
    """Every (key, value) as the ratio of its value over the baseline of its key."""
    return [value / baseline[key] for key, value in samples]
