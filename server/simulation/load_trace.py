"""What other programs hold on a machine, over time, as a trace: the law runs against it in closed loop."""

import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flexquant.server.controller.parameters import GIB
from flexquant.server.controller.trace import header_line

MOST_BYTES: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class LoadHeader:
    """What a load trace begins with. Sizes in bytes.

    Args:
        name: What it is, for people.
        seconds: How long it runs.
        total: Of the machine.
        up: Of the model at its best position.
        low: Of the model at its smallest.
        steps: Between these two, all alike.
        daemons: How many such models live on the machine.
        noise: By which a reading may be wrong, either way.
    """

    name: str
    seconds: float
    total: int = 16 * GIB
    up: int = 3 * GIB
    low: int = 1 * GIB
    steps: int = 60
    daemons: int = 1
    noise: int = 0

    def problem(self) -> str | None:
        """What is wrong with it, if anything: the field, and why."""
        if not 0 < self.seconds <= 604_800:
            return f"seconds: {self.seconds:g} is not between 0 and a week"
        if not 0 < self.total <= MOST_BYTES:
            return f"total: {self.total} bytes is no size of a machine"
        if not 0 <= self.low <= self.up <= MOST_BYTES:
            return f"up, low: a model does not range from {self.low} to {self.up} bytes"
        if not 1 <= self.steps <= 100_000:
            return f"steps: {self.steps} is not between 1 and 100000"
        if self.daemons not in (1, 2):
            return f"daemons: {self.daemons} is neither 1 nor 2"
        if not 0 <= self.noise <= MOST_BYTES:
            return f"noise: {self.noise} is no size"
        return None


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One moment; between two of them everything changes in a straight line. Two at the same moment are a jump.

    Args:
        at: Seconds.
        bytes: What other programs hold.
        some: Share of the time in which some task waits for memory.
        full: Share of the time in which all tasks do.
    """

    at: float
    bytes: float
    some: float = 0.0
    full: float = 0.0

    def problem(self) -> str | None:
        """What is wrong with it, if anything: the field, and why."""
        if not 0 <= self.at < math.inf:
            return f"at: {self.at} is no time"
        for field, most in (("bytes", float(MOST_BYTES)), ("some", 1.0), ("full", 1.0)):
            value = getattr(self, field)
            if not 0 <= value <= most:
                return f"{field}: {value} is not between 0 and {most:g}"
        return None


@dataclass(frozen=True, slots=True)
class LoadTrace:
    """Points in order of time. Before the first one its values hold, after the last one those of the last."""

    header: LoadHeader
    points: tuple[LoadPoint, ...]

    def at(self, now: float) -> LoadPoint:
        """Everything at one moment."""
        index = bisect_right(self.points, now, key=lambda point: point.at)
        if index == 0:
            return self.points[0]
        before = self.points[index - 1]
        if index == len(self.points):
            return before
        after = self.points[index]
        share = (now - before.at) / (after.at - before.at)
        return LoadPoint(
            now,
            before.bytes + share * (after.bytes - before.bytes),
            before.some + share * (after.some - before.some),
            before.full + share * (after.full - before.full),
        )

    def load(self, now: float) -> float:
        """Bytes that others hold."""
        return self.at(now).bytes

    def stalls(self, now: float) -> tuple[float, float]:
        """Shares of the time in which some task, and all tasks, wait for memory."""
        point = self.at(now)
        return point.some, point.full


def load_lines(trace: LoadTrace) -> Iterator[str]:
    """All lines of a load trace, without their ends. Zeros that are the default stay out, so that files are small."""
    yield header_line("load", trace.header)
    yield from (_point_line(point) for point in trace.points)


def _point_line(point: LoadPoint) -> str:
    parts = {"at": point.at, "bytes": point.bytes}
    parts |= {name: value for name in ("some", "full") if (value := getattr(point, name))}
    return json.dumps({name: _short(value) for name, value in parts.items()}, separators=(",", ":"))


def _short(number: float) -> float:
    """The same number, without ".0"."""
    return int(number) if float(number).is_integer() else number
