"""The load traces of the repository: what the law must not flap under.

    python -m flexquant.server.simulation.named_loads DIR

writes them all again, byte for byte the same.
"""

import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from flexquant.server.controller.parameters import GIB, MIB
from flexquant.server.simulation.load_trace import LoadHeader, LoadPoint, LoadTrace, load_lines
from flexquant.server.simulation.loads import Load, sine

SECONDS: Final = 900.0


def _line(*points: tuple[float, float]) -> tuple[LoadPoint, ...]:
    """Straight lines through pairs of seconds and bytes."""
    return tuple(LoadPoint(at, float(round(held))) for at, held in points)


def _hogs(base: float, *hogs: tuple[float, float, float, float]) -> tuple[LoadPoint, ...]:
    """Programs that allocate at once and end at once, each as (start, bytes, bytes per second, seconds to stay)."""
    points = [(0.0, base)]
    for start, amount, rate, stay in hogs:
        full = start + amount / rate
        points += [(start, base), (full, base + amount), (full + stay, base + amount), (full + stay, base)]
    return _line(*points)


def _teeth(base: float, amplitude: float, period: float) -> tuple[LoadPoint, ...]:
    """Climbs for a period, drops, climbs again."""
    starts = [n * period for n in range(round(SECONDS / period))]
    return _line(*(point for at in starts for point in ((at, base), (at + period, base + amplitude))))


def _curve(load: Load, every: float) -> tuple[LoadPoint, ...]:
    """Any load by its values at equal distances."""
    return _line(*((n * every, load(n * every)) for n in range(round(SECONDS / every) + 1)))


def _restless(base: float, amplitude: float, every: float, seed: int) -> tuple[LoadPoint, ...]:
    """Around `base`, at random."""
    chance = random.Random(seed)
    return _line(
        *((n * every, base + chance.uniform(-amplitude, amplitude)) for n in range(round(SECONDS / every) + 1))
    )


def named_loads() -> dict[str, LoadTrace]:
    """All of them, each 15 minutes on a machine of 16 GiB with a model of 3 GiB that can shrink to 1 GiB."""
    near_low = 16 * GIB - 3 * GIB - 983 * MIB
    """Others hold this: the model at its best leaves just what starts a shrink."""
    return {
        header.name: LoadTrace(header, points)
        for header, points in (
            (LoadHeader("step", SECONDS), _line((0, 10 * GIB), (60, 10 * GIB), (60, 13.5 * GIB))),
            (
                LoadHeader("ramp", SECONDS),
                _line((0, 9 * GIB), (60, 9 * GIB), (360, 14 * GIB), (500, 14 * GIB), (800, 9 * GIB)),
            ),
            (
                LoadHeader("hog", SECONDS),
                _hogs(
                    10 * GIB,
                    (60, 4 * GIB, 2 * GIB, 30),
                    (300, 4 * GIB, 1 * GIB, 30),
                    (420, 3 * GIB, 0.25 * GIB, 60),
                    (600, 3.5 * GIB, 2 * GIB, 60),
                ),
            ),
            (LoadHeader("sawtooth-20s", SECONDS), _teeth(10.5 * GIB, 2.5 * GIB, 20)),
            (LoadHeader("sawtooth-90s", SECONDS), _teeth(10.5 * GIB, 2.5 * GIB, 90)),
            (LoadHeader("sine", SECONDS), _curve(sine(11.5 * GIB, 1.5 * GIB, 120), 4)),
            (LoadHeader("noise", SECONDS, noise=20 * MIB), _restless(near_low, 100 * MIB, 2, seed=1)),
            (LoadHeader("two-daemons", SECONDS, daemons=2), _teeth(8 * GIB, 2.5 * GIB, 20)),
        )
    }


def file_text(trace: LoadTrace) -> str:
    """What its file holds."""
    return "".join(f"{line}\n" for line in load_lines(trace))


def write(folder: Path) -> Iterable[Path]:
    """Write all to `folder`, which must exist."""
    for name, trace in named_loads().items():
        path = folder / f"{name}.jsonl"
        path.write_text(file_text(trace), encoding="ascii")
        yield path


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stdout.write(f"{written}\n")
