"""The memory sources' last word, for people."""

from collections.abc import Sequence
from typing import Literal

from flexquant.server.controller.outlook import largest_step
from flexquant.server.controller.parameters import Parameters, Reserves
from flexquant.server.controller.sample import MemoryReading
from flexquant.server.elastic_state import SourceState
from flexquant.server.monitor import Readings


class MemoryReport:
    """What readings mean for a model.

    Args:
        parameters: Of the law.
        footprints: Of the model.
    """

    def __init__(self, parameters: Parameters, footprints: Sequence[int]) -> None:
        self._parameters = parameters
        self._step = largest_step(footprints)

    def tightest(self, readings: Readings) -> MemoryReading | None:
        """The domain with the fewest bytes above the reserve that starts a shrink; None while none answers."""
        return min(readings.memory, key=lambda found: found.available - self._reserves(found).low, default=None)

    def pressure(self, readings: Readings) -> Literal["none", "low", "critical", "unknown"]:
        """How short memory is, by the tightest domain."""
        found = [(reading.available, self._reserves(reading)) for reading in readings.memory]
        if not found:
            return "unknown"
        if any(available < reserves.critical for available, reserves in found):
            return "critical"
        return "low" if any(available < reserves.low for available, reserves in found) else "none"

    def sources(self, readings: Readings) -> tuple[SourceState, ...]:
        """All domains that were read, then the sources that did not answer."""
        answered = (
            SourceState(found.source, found.available, found.total, None, self._reserves(found))
            for found in readings.memory
        )
        failed = (SourceState(name, None, None, error, None) for name, error in readings.failures.items())
        return (*answered, *failed)

    def _reserves(self, reading: MemoryReading) -> Reserves:
        return self._parameters.reserves(reading.total, shared=reading.shared, largest_step=self._step)
