"""What the machine itself does, before and after the suites: it tells a slow run from a slow program."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import psutil

from bench.figures import Figure
from bench.read_bandwidth import read_bandwidth
from bench.row import Row
from bench.scale import Scale

_SPAWNS: Final = 5
_LISTEN_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """One look at the machine."""

    bandwidth: list[float]
    """Bytes per second of reading, of every repeat."""
    spawn: list[float]
    """Seconds of `python -c pass`, of every repeat."""
    busy: float
    """Share of all cores that other programs kept busy just before, in percent: above a few, figures mean little."""

    @classmethod
    def measure(cls, scale: Scale, threads: int) -> Self:
        """Takes a few seconds, on all threads."""
        busy = psutil.cpu_percent(interval=_LISTEN_SECONDS)
        return cls(read_bandwidth(scale.calibration_bytes, threads), [_spawn() for _ in range(_SPAWNS)], busy)


def rows(looks: Sequence[Calibration], threads: int) -> list[Row]:
    """The machine's own rows, over all looks."""
    gigabytes = [sample / 1e9 for look in looks for sample in look.bandwidth]
    spawns = [1000 * sample for look in looks for sample in look.spawn]
    times = f"of the machine, {len(looks)} times during the run"
    return [
        Row(f"calibration: read bandwidth, {threads} threads", "GB/s", Figure.of(gigabytes), None, times),
        Row("calibration: process spawn, `python -c pass`", "ms", Figure.of(spawns), None, times, less_is_better=True),
        Row(
            "calibration: cores busy with other programs",
            "%",
            Figure.of([look.busy for look in looks]),
            None,
            times,
            less_is_better=True,
        ),
    ]


def _spawn() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - start
