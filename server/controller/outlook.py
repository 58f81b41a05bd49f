"""One memory domain as the law judges it: what is left now, soon, and steadily."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flexquant.server.controller.parameters import Parameters, Reserves
from flexquant.server.controller.sample import Sample
from flexquant.server.controller.state import State
from flexquant.server.controller.track import Track


@dataclass(frozen=True, slots=True)
class Outlook:
    """Bytes that one domain has left for us.

    Args:
        source: Its name.
        available: Now.
        settled: Once everything ordered is done and everything promised is taken.
        falling: What others take within the reaction time if the present fall goes on.
        falling_soon: What they take within the time of an urgent shrink.
        steady: Least of the growth window, once everything ordered is done and everything promised is taken; None
            until the window is full.
        reserves: Of the domain.
    """

    source: str
    available: int
    settled: int
    falling: float
    falling_soon: float
    steady: int | None
    reserves: Reserves

    @property
    def predicted(self) -> float:
        """What is settled, less the fall."""
        return self.settled - self.falling

    @property
    def critical(self) -> bool:
        """Whether others are about to run out of memory."""
        return self.available < self.reserves.critical

    @property
    def low(self) -> bool:
        """Whether it is time to shrink."""
        return self.predicted < self.reserves.low

    @property
    def hasty(self) -> bool:
        """Whether memory may be critical before even an urgent shrink has given something back."""
        return self.available - self.falling_soon < self.reserves.critical

    @property
    def need(self) -> float:
        """Bytes to release so that the target reserve is free again; not positive when it is."""
        return self.reserves.target - self.predicted

    @property
    def relieved(self) -> bool:
        """Whether the target reserve is free."""
        return self.available >= self.reserves.target


def follow(state: State, sample: Sample, now: float, parameters: Parameters) -> dict[str, Track]:
    """B of every domain that answered, this sample included: what would be available without weights and KV pages.

    What this daemon takes and gives back itself cancels out of it; only others move it.
    """
    own = sample.elastic_bytes + state.retained + sample.kv_bytes
    keep = max(parameters.grow_window_s, parameters.fall_window_s)
    return {
        reading.source: state.tracks.get(reading.source, Track()).add(now, reading.available + own, keep)
        for reading in sample.memory
    }


def outlooks(
    state: State, sample: Sample, now: float, parameters: Parameters, footprints: Sequence[int]
) -> list[Outlook]:
    """The outlook of every domain that answered; `state` already contains this sample."""
    ordered = footprints[sample.target] + state.overhead
    dropping = min(state.dropping, sample.reusable_bytes)
    promised = sample.kv_promised + sample.kv_wanted
    ahead = reaction(state, parameters)
    step = largest_step(footprints)
    found = []
    for reading in sample.memory:
        track = state.tracks[reading.source]
        fall = min(max(track.fall(now, parameters.fall_window_s), 0.0), parameters.fall_limit)
        lowest = track.lowest(now, parameters.grow_window_s)
        later = reading.available + sample.elastic_bytes - ordered + dropping - promised
        found.append(
            Outlook(
                source=reading.source,
                available=reading.available,
                settled=later,
                falling=fall * ahead,
                falling_soon=fall * parameters.urgent_s,
                steady=None if lowest is None else lowest - ordered - state.retained - sample.kv_bytes - promised,
                reserves=parameters.reserves(reading.total, shared=reading.shared, largest_step=step),
            )
        )
    return found


def reaction(state: State, parameters: Parameters) -> float:
    """Seconds from a fall to memory given back: the slow ones of the latest shrinks and the time between samples."""
    if len(state.reactions) < REACTIONS_NEEDED:
        return parameters.reaction_s
    slow = sorted(state.reactions)[-(len(state.reactions) // 20) - 1]  # 95 %
    return min(parameters.tick_least_s + slow, parameters.reaction_limit_s)


REACTIONS_NEEDED = 5
REACTIONS_KEPT = 20


def largest_step(footprints: Sequence[int]) -> int:
    """Bytes of the largest single transition; 0 for a model with one position."""
    return max((above - below for above, below in pairwise(footprints)), default=0)
