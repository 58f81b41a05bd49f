"""What the law sees at one moment, and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """How much memory one domain (the host, a budget, ...) has left for this daemon.

    Args:
        source: Name of the probe.
        available: Bytes that this daemon could still take; negative when it is over a limit.
        total: Bytes of the whole domain; the reserves are shares of it.
        shared: Whether other programs live in the domain and reserves are kept for them. A budget
            that the user gave to this daemon alone is not shared: it may be used up to the last byte.
    """

    source: str
    available: int
    total: int
    shared: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """One tick's view of memory and model.

    Args:
        memory: One reading per source that answered; empty when none did.
        failed: Names of the sources that did not answer.
        position: Position that is published now.
        target: Position that was ordered last; equal to `position` when nothing is under way.
        moving: Whether steps are still under way.
        elastic_bytes: Bytes now mapped for swappable weights (W), transient copies included.
        move_failed: Whether a move ordered earlier has failed since the last sample.
    """

    memory: tuple[MemoryReading, ...]
    failed: tuple[str, ...]
    position: int
    target: int
    moving: bool
    elastic_bytes: int
    move_failed: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Order: go to `position`. An urgent move ignores the time budget that steps have beside decoding."""

    position: int
    urgent: bool
