"""The shape that all memory sources share.

A probe reads once, at once, without state; the monitor asks every tick. A source that a platform does not
have is not constructed; one that fails while running raises and is left out until it answers again.
"""

from collections.abc import Sequence
from typing import Protocol

from flexquant.server.controller.sample import MemoryReading, StressReading

Reading = MemoryReading | StressReading


class Probe(Protocol):
    """One source of readings: of one domain, or of several that are read together."""

    @property
    def name(self) -> str:
        """Short and stable: it appears in the state, the log and the metrics."""
        ...

    def read(self) -> Sequence[Reading]:
        """Read now.

        Raises:
            Exception: Of any kind; the source does not answer or answers nonsense.
        """
        ...
