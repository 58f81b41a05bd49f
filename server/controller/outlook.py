"""One memory source as the law judges it: what is left now, soon, and steadily."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flexquant.server.controller.parameters import Parameters, Reserves
from flexquant.server.controller.sample import Sample
from flexquant.server.controller.state import State


@dataclass(frozen=True, slots=True)
class Outlook:
    """Bytes that one source has left for us.

    Args:
        source: Its name.
        available: Now.
        predicted: Once everything ordered is done and the present fall has gone on for the reaction time.
        steady: Least of the growth window, once everything ordered is done; None until the window is full.
        reserves: Of its domain.
    """

    source: str
    available: int
    predicted: float
    steady: int | None
    reserves: Reserves

    @property
    def critical(self) -> bool:
        """Whether others are about to run out of memory."""
        return self.available < self.reserves.critical

    @property
    def low(self) -> bool:
        """Whether it is time to shrink."""
        return self.predicted < self.reserves.low

    @property
    def need(self) -> float:
        """Bytes to release so that the target reserve is free again; not positive when it is."""
        return self.reserves.target - self.predicted


def outlooks(
    state: State, sample: Sample, now: float, parameters: Parameters, footprints: Sequence[int]
) -> list[Outlook]:
    """The outlook of every source that answered; `state` already contains this sample."""
    ordered = footprints[sample.target] + state.overhead
    step = largest_step(footprints)
    found = []
    for reading in sample.memory:
        track = state.tracks[reading.source]
        fall = min(max(track.fall(now, parameters.fall_window_s), 0.0), parameters.fall_limit)
        lowest = track.lowest(now, parameters.grow_window_s)
        found.append(
            Outlook(
                source=reading.source,
                available=reading.available,
                predicted=reading.available + sample.elastic_bytes - ordered - fall * parameters.reaction_s,
                steady=None if lowest is None else lowest - ordered,
                reserves=parameters.reserves(reading.total, shared=reading.shared, largest_step=step),
            )
        )
    return found


def largest_step(footprints: Sequence[int]) -> int:
    """Bytes of the largest single transition; 0 for a model with one position."""
    return max((above - below for above, below in pairwise(footprints)), default=0)
