"""What `top` knows at a moment. Pure: readings and events come in, a frozen state comes out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from flexquant.clients.load import Load
from flexquant.clients.types import Decision, Elastic

DECISIONS: Final = 50
"""Decisions that are remembered."""
HISTORY: Final = 600
"""Readings that are remembered."""
RATE_S: Final = 3.0
"""Span over which tokens are counted for the present speed."""
SHORT_RATE_S: Final = 1.0
"""The same for the history."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon said at one moment.

    Args:
        at: When, in seconds since 1970.
        elastic: Where the model is.
        load: What it is busy with.
    """

    at: float
    elastic: Elastic
    load: Load


@dataclass(frozen=True, slots=True)
class View:
    """All that can be shown.

    Args:
        url: Where the daemon listens.
        model: What it serves.
        readings: The last ones, the newest last; empty before the first.
        decisions: The last ones, the newest last.
        problem: Why there are no new readings; None while there are.
    """

    url: str
    model: str = ""
    readings: tuple[Reading, ...] = ()
    decisions: tuple[Decision, ...] = ()
    problem: str | None = None

    @property
    def last(self) -> Reading | None:
        """The newest reading."""
        return self.readings[-1] if self.readings else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens generated a second over the last RATE_S; None before there are two readings."""
        return _rate(self.readings, len(self.readings) - 1, RATE_S)

    def read(self, reading: Reading, model: str) -> Self:
        """With a new reading. A daemon that counts from zero again is another one, whose history begins here."""
        last = self.last
        kept = self.readings
        if model != self.model or (last and reading.load.generated_tokens < last.load.generated_tokens):
            kept = ()
        found = replace(self, model=model, readings=(*kept, reading)[-HISTORY:], problem=None)
        return found.decided([reading.elastic.last_decision] if reading.elastic.last_decision else [])

    def decided(self, decisions: Iterable[Decision]) -> Self:
        """With new decisions; those that are known are left out."""
        merged = dict.fromkeys([*self.decisions, *decisions])
        return replace(self, decisions=tuple(sorted(merged, key=lambda found: found.when))[-DECISIONS:])

    def lost(self, problem: str) -> Self:
        """Without an answer, for this reason."""
        return replace(self, problem=problem)

    def rates(self) -> list[float]:
        """Tokens a second at each reading but the first."""
        found = (_rate(self.readings, at, SHORT_RATE_S) for at in range(1, len(self.readings)))
        return [0.0 if rate is None else rate for rate in found]


def _rate(readings: Sequence[Reading], at: int, span: float) -> float | None:
    """Tokens a second over the last `span` seconds, or a little more, before a reading; None where nothing is known.

    Events, and the start, bring readings so near each other that tokens per time between them would say nothing.
    """
    if at < 1:
        return None
    end, start = readings[at], at - 1
    while start > 0 and end.at - readings[start].at < span:
        start -= 1
    seconds = end.at - readings[start].at
    return (
        (end.load.generated_tokens - readings[start].load.generated_tokens) / seconds if seconds >= span / 4 else None
    )
