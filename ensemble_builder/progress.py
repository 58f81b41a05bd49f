"""Progress of long work for a person: stages with a count, a total and an estimate of the time that remains.

A bar that redraws itself on a terminal; elsewhere a plain line every few seconds. NO_COLOR (https://no-color.org) is
respected. Nothing here goes to stdout.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TextIO

BAR_CELLS: Final = 24
BAR_SECONDS: Final = 0.1
"""Least time between two drawings of the bar."""
LINE_SECONDS: Final = 5.0
"""Least time between two plain lines."""


class Stage:
    """One stage of the work: `done` of `total` equal parts. Made by `Progress.stage`."""

    def __init__(self, progress: "Progress", name: str, total: int, done: int, show: Callable[[int], str]) -> None:
        self._progress = progress
        self._started = self._drawn = progress.clock()
        self._start = done
        self.name = name
        self.total = total
        self.done = done
        self._show = show

    @property
    def count(self) -> str:
        """How far it is, for a person."""
        return f"{self._show(self.done)}/{self._show(self.total)}"

    def advance(self, count: int = 1) -> None:
        """Tell that `count` more parts are done; more than were expected count as all."""
        self.done = min(self.total, self.done + count)
        now = self._progress.clock()
        if now - self._drawn >= self._progress.interval:
            self._drawn = now
            self._progress.draw(self)

    def skip(self, count: int) -> None:
        """Tell that `count` parts need no doing, such as those of an earlier run; the estimate leaves them out."""
        self._start += count
        self.done = min(self.total, self.done + count)

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return self._progress.clock() - self._started

    @property
    def remaining(self) -> float | None:
        """Estimated seconds to the end, at the rate of this run so far; None before the first part is done."""
        if self.done <= self._start:
            return None
        return self.elapsed * (self.total - self.done) / (self.done - self._start)


class Progress:
    """Shows stages, one after the other.

    Args:
        stream: Where to; stderr if None.
        clock: Seconds, monotonic.
        environment: Where NO_COLOR and TERM are looked up.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty() and environment.get("TERM") != "dumb"
        self._colour = self._bar and not environment.get("NO_COLOR")
        self.clock = clock
        self.interval = BAR_SECONDS if self._bar else LINE_SECONDS

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, show: Callable[[int], str] = str) -> Iterator[Stage]:
        """Show a stage while the block runs.

        Args:
            name: What is being done, such as "quantizing".
            total: Parts in all.
            done: Parts that an earlier run has done; they do not count for the estimate.
            show: How a number of parts is written.
        """
        stage = Stage(self, name, total, done, show)
        if self._bar:
            self.draw(stage)
        try:
            yield stage
        except BaseException:
            self._clear()
            raise
        self._clear()
        self._write(f"{name}: {stage.count} in {duration(stage.elapsed)}\n")

    def note(self, text: str) -> None:
        """Show a line of text that stays."""
        self._clear()
        self._write(f"{text}\n")

    def draw(self, stage: Stage) -> None:
        """Show where a stage is."""
        left = "" if stage.remaining is None else f", about {duration(stage.remaining)} left"
        count = f"{stage.count}{left}"
        if not self._bar:
            self._write(f"{stage.name}: {count}\n")
            return
        cells = BAR_CELLS * stage.done // stage.total if stage.total else BAR_CELLS
        bar = "=" * cells
        if self._colour:
            bar = f"\x1b[36m{bar}\x1b[0m"
        self._clear()
        self._write(f"{stage.name} {bar}{' ' * (BAR_CELLS - cells)} {count}")

    def _clear(self) -> None:
        if self._bar:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def duration(seconds: float) -> str:
    """Return a time span as a person reads it: "9 s", "4:09 min", "2:04 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
