"""What the law sees at one moment, and what it orders."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["normal", "warn", "critical"]


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """How much memory one domain (the host, a container, a budget, ...) has left for this daemon.

    Args:
        source: Name of the source: stable, one domain each.
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
class StressReading:
    """How hard one domain is at work to find memory, whatever its readings of bytes say. None: not known here.

    Counters only grow; the law looks at how they change.

    Args:
        source: Name of the source: stable, one domain each.
        some_us: Microseconds in which some task waited for memory (Linux PSI, `some` total).
        full_us: Microseconds in which all tasks did (`full` total).
        some_avg10: Share of the last 10 s in which some task waited, in per cent.
        some_avg60: The same over 60 s.
        events: Times that a limit was hit (cgroup v2: `high` and `max` of memory.events).
        oom_kills: Processes that the kernel killed for want of memory.
        swapped_out: Bytes written to swap.
        level: What the system calls it (macOS).
    """

    source: str
    some_us: int | None = None
    full_us: int | None = None
    some_avg10: float | None = None
    some_avg60: float | None = None
    events: int | None = None
    oom_kills: int | None = None
    swapped_out: int | None = None
    level: Level | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One tick's view of memory and model. Sizes in bytes.

    Args:
        memory: One reading per domain that answered; empty when none did.
        failed: Names of the sources that did not answer.
        position: Position that is published now.
        target: Position that was ordered last; equal to `position` when nothing is under way.
        moving: Whether steps are still under way.
        elastic_bytes: Now mapped for swappable weights (W), transient copies included.
        move_failed: Whether a move ordered earlier has failed since the last sample.
        stress: One reading per domain that tells of it.
        kv_bytes: Now mapped for KV pages, reusable ones included.
        kv_promised: What admitted sequences may still map for KV pages.
        kv_wanted: What the next waiting request would be promised; it is admitted once there is room.
        reusable_bytes: Of `kv_bytes`, what no sequence has: kept for later prompts alone.
        private_bytes: The process's own (anonymous) memory as the system counts it; None where it does not.
    """

    memory: tuple[MemoryReading, ...]
    failed: tuple[str, ...]
    position: int
    target: int
    moving: bool
    elastic_bytes: int
    move_failed: bool = False
    stress: tuple[StressReading, ...] = ()
    kv_bytes: int = 0
    kv_promised: int = 0
    kv_wanted: int = 0
    reusable_bytes: int = 0
    private_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Order: go to `position`. An urgent move ignores the time budget that steps have beside decoding."""

    position: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class DropReusable:
    """Order: give back the KV pages that no sequence has."""


@dataclass(frozen=True, slots=True)
class Trim:
    """Order: give back what the process's heap and the system's file cache hold on our account."""


Order = Move | DropReusable | Trim
