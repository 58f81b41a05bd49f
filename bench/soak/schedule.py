"""Who wants what and when: a seeded schedule of hogs and of wishes. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HOGS: Final = 2
_GIB: Final = 1 << 30
_TTL: Final = (8.0, 30.0)
_WISHES_S: Final = 20.0
"""Mean time between two wishes."""


@dataclass(frozen=True, slots=True)
class Take:
    """A hog takes memory.

    Args:
        hog: Which.
        share: How much, as a share of what the model can give back.
        from_slack: Whether all that is free above R_low is taken first, so that the model must give back its share.
        per_second: Bytes per second.
    """

    hog: int
    share: float
    from_slack: bool
    per_second: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A hog gives everything back."""

    hog: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A user pins a position for a while; `number` counts the positions that have references."""

    number: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Limit:
    """A user limits the worst position for a while, to a share of the sequence."""

    share: float
    ttl: float


@dataclass(frozen=True, slots=True)
class Auto:
    """A user says that the model shall follow the memory."""


Event = Take | Leave | Pin | Limit | Auto


@dataclass(frozen=True, slots=True)
class Planned:
    """An event, and the second of the run at which it is due."""

    at: float
    event: Event


def schedule(seed: int, seconds: float, positions: int) -> list[Planned]:
    """All events of a run in their order; the same seed and length give the same ones.

    Args:
        seed: Any number.
        seconds: Of the run.
        positions: How many have references.
    """
    found = [planned for hog in range(HOGS) for planned in _of_hog(random.Random(f"{seed}/hog/{hog}"), hog, seconds)]
    found += _wishes(random.Random(f"{seed}/wishes"), seconds, positions)
    return sorted(found, key=lambda planned: planned.at)


def _of_hog(rng: random.Random, hog: int, seconds: float) -> list[Planned]:
    """The first takes what is free and more, for long; the second adds to that for a moment, or alone does nothing."""
    found: list[Planned] = []
    at = rng.uniform(3, 8)
    while at < seconds:
        for _ in range(rng.choice([1, 1, 1, 4])):  # one stay, or a sawtooth
            share = rng.uniform(0.05, 0.9) if hog == 0 else rng.uniform(0.05, 0.3)
            rate = rng.choice([_GIB, _GIB, _GIB // 4, _GIB // 16])
            stays = rng.choice([rng.uniform(1, 5), rng.uniform(10, 40)])
            found.append(Planned(at, Take(hog, share, from_slack=hog == 0, per_second=rate)))
            at += stays
            found.append(Planned(at, Leave(hog)))
            at += rng.uniform(1, 5)
        at += rng.choice([rng.uniform(5, 20), rng.uniform(30, 90)])
    return [planned for planned in found if planned.at < seconds]


def _wishes(rng: random.Random, seconds: float, positions: int) -> list[Planned]:
    found: list[Planned] = []
    at = rng.uniform(5, 10)
    while at < seconds:
        draw = rng.random()
        event: Event
        if draw < 0.6:
            event = Pin(rng.randrange(positions), rng.uniform(*_TTL))
        elif draw < 0.85:
            event = Limit(rng.uniform(0.2, 1.0), rng.uniform(*_TTL))
        else:
            event = Auto()
        found.append(Planned(at, event))
        at += max(2.0, rng.expovariate(1 / _WISHES_S))
    return found


def takes(planned: Sequence[Planned]) -> int:
    """How often a hog takes memory."""
    return sum(isinstance(item.event, Take) for item in planned)
