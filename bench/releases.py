"""What `bench.watched_daemon` writes down: when requests gave their memory back."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TextIO

from bench.server_process import ServerError

_POLL_SECONDS: Final = 0.01
_GIVE_UP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Release:
    """A sequence has given its memory back. Times are of `time.monotonic`.

    Args:
        time: When it was done.
        tokens: That the sequence had.
        safe_points: When the engine came to one, since the release before.
    """

    time: float
    tokens: int
    safe_points: Sequence[float]

    def passed(self, since: float) -> int:
        """Safe points since then, the one included at which the memory was given back."""
        return sum(point > since for point in self.safe_points)

    def longest_way(self, until: float) -> float:
        """Seconds between two safe points that follow each other, at most, before `until`."""
        points = [point for point in self.safe_points if point <= until]
        return max((after - before for before, after in pairwise(points)), default=0.0)


class Releases:
    """The file of a daemon that runs.

    Args:
        file: Open for reading, at its start.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._part = ""

    def next(self) -> Release:
        """The next release, waiting for it.

        Raises:
            ServerError: None comes.
        """
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            self._part += self._file.readline()
            if self._part.endswith("\n"):
                line, self._part = self._part, ""
                return Release(**json.loads(line))
            time.sleep(_POLL_SECONDS)
        raise ServerError("the daemon gave no memory back")


@contextmanager
def releases(path: Path) -> Iterator[Releases]:
    """Follow a file."""
    with path.open() as file:
        yield Releases(file)
