"""What happened, from a series of looks at processes. Pure.

The first process of every look is the one that gives memory back; the others are the rest of the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Look:
    """Bytes that each process held at a time, in seconds of `time.monotonic`."""

    time: float
    held: tuple[int, ...]


def available(look: Look, memory: int) -> int:
    """What is left of a machine with `memory` bytes that is shared by these processes alone."""
    return memory - sum(look.held)


def crossing(looks: Sequence[Look], memory: int, reserve: int) -> float | None:
    """When less than `reserve` bytes were available for the first time; None if that has not happened."""
    return next((look.time for look in looks if available(look, memory) < reserve), None)


def without_release(looks: Sequence[Look], since: float) -> list[Look]:
    """The same looks, had the first process given nothing back after the last look before `since`."""
    kept = max((look for look in looks if look.time <= since), key=lambda look: look.time, default=None)
    if kept is None:
        return list(looks)
    return [
        look if look.time <= since else Look(look.time, (max(look.held[0], kept.held[0]), *look.held[1:]))
        for look in looks
    ]


def given_back(looks: Sequence[Look], since: float, nbytes: float) -> float | None:
    """When the first process held `nbytes` less than at the last look before `since`; None if that never was.

    Raises:
        ValueError: There is no look before `since`.
    """
    before = [look for look in looks if look.time <= since]
    if not before:
        raise ValueError("nobody looked before")
    goal = before[-1].held[0] - nbytes
    return next((look.time for look in looks if look.time > since and look.held[0] <= goal), None)


def settled(series: Sequence[tuple[float, float]], goal: float) -> float | None:
    """When a quantity had come down to `goal` for good; None if it ended above.

    Args:
        series: Times, ascending, and the quantity then.
        goal: The most that it may be.
    """
    found: float | None = None
    for time, value in series:
        if value > goal:
            found = None
        elif found is None:
            found = time
    return found


def longest_pause(looks: Sequence[Look]) -> float:
    """Seconds between two neighbouring looks at most: no time that is read off is more exact."""
    return max((after.time - before.time for before, after in pairwise(looks)), default=0.0)


def rate_of_taking(looks: Sequence[Look], begin: float, end: float) -> float:
    """Bytes per second that the processes but the first took from the first to the last look between two times."""
    seen = [look for look in looks if begin <= look.time <= end]
    if len(seen) < 2 or seen[-1].time <= seen[0].time:
        return 0.0
    return (sum(seen[-1].held[1:]) - sum(seen[0].held[1:])) / (seen[-1].time - seen[0].time)
