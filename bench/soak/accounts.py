"""The books of a soak: what was given back, what leaked, how often the law turned round. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

from bench.machine.decisions import DOWN, Decision

REGRET_S: Final = 60.0
"""A shrink so soon after a growth is one that the law regrets."""
_WISHES: Final = ("pin", "worst_position")
"""Moves that users have wished for."""
_LEAST: Final = 1 << 20
"""Bytes: less than this between two looks is no release."""


@dataclass(frozen=True, slots=True)
class Books:
    """The daemon's memory at a moment, by `GET /v1/elastic`; both counts are taken at the same time.

    Args:
        time: Seconds of any steady clock.
        registry: Bytes of anonymous memory on the daemon's own books.
        private: Bytes by the system's count (RssAnon).
        auto: Whether the model follows the memory.
    """

    time: float
    registry: int
    private: int
    auto: bool

    @classmethod
    def of(cls, time: float, state: Mapping[str, Any]) -> Self:
        """From the answer."""
        memory = state["memory"]
        return cls(time, memory["registry"], memory["private"], state["mode"] == "auto")

    @property
    def beyond(self) -> int:
        """Private bytes that are on no books: Python, HTTP, the tokenizer, and whatever the heap keeps."""
        return self.private - self.registry


@dataclass(frozen=True, slots=True)
class Released:
    """What was given back in all releases together, in bytes."""

    releases: int
    ordered: int
    observed: int

    @property
    def efficiency(self) -> float:
        """What the system saw of what the books say; 1 without any release."""
        return self.observed / self.ordered if self.ordered else 1.0


def released(looks: Sequence[Books]) -> Released:
    """Add up every stretch in which the registry falls, from the look before it to the look after it.

    The look after is part of it, because a look may come between the books and the system's own.
    """
    releases = ordered = observed = 0
    begin: Books | None = None
    for before, after in pairwise(looks):
        falls = before.registry - after.registry >= _LEAST
        if falls and begin is None:
            begin = before
        elif not falls and begin is not None:
            releases += 1
            ordered += begin.registry - after.registry
            observed += begin.private - after.private
            begin = None
    return Released(releases, ordered, observed)


def auto_seconds(looks: Sequence[Books]) -> float:
    """For how long the model followed the memory."""
    return sum(after.time - before.time for before, after in pairwise(looks) if before.auto and after.auto)


@dataclass(frozen=True, slots=True)
class Turns:
    """How often the law changed its direction by itself.

    Args:
        reversals: From down to up or from up to down.
        regretted: Of these, down again within a minute of up.
    """

    reversals: int
    regretted: int


def turns(decisions: Sequence[Decision]) -> Turns:
    """Count them; what the user wished (a pin, a limit) begins anew: its way down and back is no turn of the law."""
    reversals = regretted = 0
    last: Decision | None = None
    for decision in decisions:
        if decision.what in _WISHES:
            last = None
        if decision.what != "grow" and decision.what not in DOWN:
            continue
        if last is not None and (last.what in DOWN) != (decision.what in DOWN):
            reversals += 1
            regretted += decision.what in DOWN and decision.when - last.when < REGRET_S
        last = decision
    return Turns(reversals, regretted)


def most_turns(seconds: float) -> float:
    """The bound on turns that the law promises for so many seconds."""
    return 5 + seconds / 600


@dataclass(frozen=True, slots=True)
class Handles:
    """What a process holds of the system: numbers that must not grow."""

    threads: int
    files: int
    """Open ones, sockets not among them."""
    sockets: int

    def leaked_since(self, before: "Handles") -> "Handles":
        """How many there are more of each; less than before counts as none."""
        return Handles(
            max(0, self.threads - before.threads),
            max(0, self.files - before.files),
            max(0, self.sockets - before.sockets),
        )

    @property
    def total(self) -> int:
        """Of all kinds."""
        return self.threads + self.files + self.sockets

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.files} files, {self.sockets} sockets"


def handles(names: Sequence[str], threads: int) -> Handles:
    """From the names that a process's descriptors link to, and its threads."""
    sockets = sum(name.startswith("socket:") for name in names)
    return Handles(threads, len(names) - sockets, sockets)
