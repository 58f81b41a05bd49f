"""What happened during a soak, as the parts of it note it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.machine.decisions import Decision
from bench.many_clients.report import Report
from bench.soak.accounts import Books, Handles

MOST_DETAILS: Final = 20


@dataclass(slots=True)
class Seen:
    """Filled while a soak runs.

    Args:
        load: What the clients saw.
    """

    load: Report
    seconds: float = 0.0
    """Of the measured part."""
    looks: list[Books] = field(default_factory=list)
    """At the daemon's memory, of the measured part."""
    compared: int = 0
    """Answers at a pinned position that were compared with those of the quiet daemon."""
    not_compared: int = 0
    """Others of that kind: the pin had ended or had yielded before they were complete."""
    wrong_tokens: list[str] = field(default_factory=list)
    wishes: Counter[str] = field(default_factory=Counter)
    """By kind, and by what became of them."""
    faults: list[str] = field(default_factory=list)
    """What must not happen and has no check of its own, the first `MOST_DETAILS` times."""
    taken: int = 0
    """Bytes that the hogs took."""
    at_start: tuple[Books, Handles] | None = None
    """After the warm-up, in the same state as at the end: nobody asks, position 0, no KV pages."""
    at_end: tuple[Books, Handles] | None = None
    decisions: Sequence[Decision] = ()
    """Of the measured part."""
    drained: str = ""
    """How the end of the daemon went wrong."""

    def fault(self, what: str) -> None:
        """Something happened that must not."""
        if len(self.faults) < MOST_DETAILS:
            self.faults.append(what)
