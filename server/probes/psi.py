"""Pressure stall information of Linux: how long programs waited for memory, whatever is called available.

It counts what the number of available bytes hides: reclaim, files that are read again because their pages were
dropped, and waiting for swap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexquant.server.controller.sample import StressReading
from flexquant.server.probes.kernel_file import read_file, read_if_there


@dataclass(frozen=True, slots=True)
class Pressure:
    """One pressure file; the fields are those of `StressReading`."""

    some_us: int | None = None
    full_us: int | None = None
    some_avg10: float | None = None
    some_avg60: float | None = None


class PsiProbe:
    """The pressure of the whole machine.

    Args:
        path: Of its pressure file, /proc/pressure/memory.
    """

    name = "psi"

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Sequence[StressReading]:
        """Time waited so far, and shares of the last seconds; the totals are exact at any rate of reading."""
        found = parse_pressure(read_file(self._path))
        return [StressReading(self.name, found.some_us, found.full_us, found.some_avg10, found.some_avg60)]


def read_pressure(path: Path) -> Pressure | None:
    """A pressure file; None where the kernel does not account for pressure.

    Raises:
        OSError: There is one, but it cannot be read.
        ValueError: It is no pressure file.
    """
    text = read_if_there(path)
    return None if text is None else parse_pressure(text)


def parse_pressure(text: str) -> Pressure:
    """The two lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full ...`.

    Raises:
        ValueError: It is no pressure file.
    """
    lines = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        lines[kind] = dict(field.split("=") for field in fields)
    try:
        some, full = lines["some"], lines["full"]
        return Pressure(int(some["total"]), int(full["total"]), float(some["avg10"]), float(some["avg60"]))
    except KeyError as error:
        raise ValueError(f"no {error} in {text!r}") from error
