"""Asks every memory source, each tick, and says which do not answer."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.probe import Probe

logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Readings:
    """One round over all sources: what was read, and for the rest why not."""

    memory: tuple[MemoryReading, ...]
    failures: dict[str, str]
    stress: tuple[StressReading, ...] = ()


class Monitor:
    """All sources of one daemon. A failing one is left out, logged once, and asked again at the next tick.

    Args:
        probes: The sources; their names differ.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = tuple(probes)
        self._failures: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sources."""
        return tuple(probe.name for probe in self._probes)

    def read(self) -> Readings:
        """What every source that answers reads."""
        memory: list[MemoryReading] = []
        stress: list[StressReading] = []
        failures: dict[str, str] = {}
        for probe in self._probes:
            try:
                readings = probe.read()
            except Exception as error:  # whatever a source does, the others count
                failures[probe.name] = f"{type(error).__name__}: {error}"
                continue
            for reading in readings:
                if isinstance(reading, MemoryReading):
                    memory.append(reading)
                else:
                    stress.append(reading)
        self._tell(failures)
        return Readings(tuple(memory), failures, tuple(stress))

    def _tell(self, failures: dict[str, str]) -> None:
        """Log sources that have just failed or come back."""
        for name in failures.keys() - self._failures.keys():
            logger.warning("memory source %s does not answer and is left out: %s", name, failures[name])
        for name in self._failures.keys() - failures.keys():
            logger.info("memory source %s answers again", name)
        self._failures = failures
