"""What the daemon decided, read from its log."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_LINE: Final = re.compile(
    r"^(?P<when>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+ \S+: "
    r"(?P<what>[a-z_]+): position (?P<begin>\d+) to (?P<end>\d+) "
)
DOWN: Final = ("shrink", "critical")
"""Decisions by which the law gives memory back."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the log.

    Args:
        when: Seconds since 1970, to the millisecond.
        what: Of the law: "shrink", "grow", ...
        begin: Position that was ordered before.
        end: Position that is ordered now.
    """

    when: float
    what: str
    begin: int
    end: int

    @property
    def monotonic(self) -> float:
        """When, in seconds of `time.monotonic`."""
        return self.when - time.time() + time.monotonic()


def decisions(lines: Iterable[str]) -> Iterator[Decision]:
    """Those among the lines of a log."""
    for line in lines:
        found = _LINE.match(line)
        if found is not None:
            when = datetime.strptime(found["when"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
            yield Decision(when, found["what"], int(found["begin"]), int(found["end"]))


def first_shrink(found: Iterable[Decision], since: float) -> Decision | None:
    """The first order to give weights back after a time, in seconds since 1970."""
    return next((item for item in found if item.when >= since and item.what in DOWN and item.end > item.begin), None)
