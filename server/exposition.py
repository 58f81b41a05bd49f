"""Prometheus' text format 0.0.4: counters, histograms and gauges, and how a scrape writes them down.

Written here rather than taken from prometheus_client: it is this one file, and that library locks on every update and
is loaded and kept in memory by a daemon that counts both as features.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Generic, Literal, Protocol, TypeVar

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_Source = TypeVar("_Source")
Labels = tuple[str, ...]
"""Values of a metric's labels, in their order."""
Sample = tuple[str, Sequence[tuple[str, str]], float]
"""What is put behind the metric's name, its labels with their values, and the value."""


class Metric(Protocol):
    """What every kind has."""

    @property
    def name(self) -> str:
        """With its unit, as Prometheus' conventions want it."""
        ...

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """Prometheus' type."""
        ...

    @property
    def help(self) -> str:
        """One sentence for people."""
        ...

    @property
    def labels(self) -> Labels:
        """Names of its labels."""
        ...


class Counter:
    """Only goes up. One thread adds at a time; others may read meanwhile.

    Args:
        name: See `Metric`, as `labels`.
        meaning: Its `help`.
        start: Values of labels that are shown as 0 before anything was added.
    """

    kind: Final = "counter"

    def __init__(self, name: str, meaning: str, labels: Labels = (), start: Sequence[Labels] = ()) -> None:
        self.name, self.help, self.labels = name, meaning, labels
        self._values: dict[Labels, float] = dict.fromkeys(start if labels else [()], 0)

    def add(self, amount: float, *labels: str) -> None:
        """Count `amount`, at least 0, for these values of the labels."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def samples(self) -> Iterator[Sample]:
        """What it says now."""
        for labels, value in self._values.copy().items():  # the copy is made in one step, so adding may go on
            yield "", list(zip(self.labels, labels, strict=True)), value


class Histogram:
    """How often values lay below bounds. One thread observes at a time; others may read meanwhile.

    Args:
        name: See `Metric`.
        meaning: Its `help`.
        bounds: Ascending; each is the largest value of its bucket.
    """

    kind: Final = "histogram"
    labels: Final[Labels] = ()

    def __init__(self, name: str, meaning: str, bounds: Sequence[float]) -> None:
        self.name, self.help = name, meaning
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._sum += value
        self._counts[bisect_left(self._bounds, value)] += 1

    def samples(self) -> Iterator[Sample]:
        """What it says now: all buckets and the count are of one moment."""
        counts = self._counts.copy()
        total, below = self._sum, list(accumulate(counts))
        for bound, count in zip((*self._bounds, float("inf")), below, strict=True):
            yield "_bucket", [("le", _number(bound))], count
        yield "_sum", (), total
        yield "_count", (), below[-1]


@dataclass(frozen=True, slots=True)
class Gauge(Generic[_Source]):
    """Goes up and down: read from what there is when it is asked for.

    Args:
        name: See `Metric`, as `help` and `labels`.
        read: Gives values, each with those of its labels; none where nothing is known.
    """

    name: str
    help: str
    read: Callable[[_Source], Iterable[tuple[Labels, float]]]
    labels: Labels = ()
    kind: Literal["gauge"] = "gauge"

    def samples(self, source: _Source) -> Iterator[Sample]:
        """What it says of `source`."""
        for labels, value in self.read(source):
            yield "", list(zip(self.labels, labels, strict=True)), value


def written(metric: Metric, samples: Iterable[Sample]) -> str:
    """A metric in the text format, with its end of line."""
    lines = [f"# HELP {metric.name} {_escaped(metric.help)}", f"# TYPE {metric.name} {metric.kind}"]
    for suffix, labels, value in samples:
        pairs = ",".join(f'{name}="{_quoted(text)}"' for name, text in labels)
        lines.append(
            f"{metric.name}{suffix}{{{pairs}}} {_number(value)}" if pairs else f"{metric.name}{suffix} {_number(value)}"
        )
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
