"""The trace: JSON Lines of what the law saw and did. An incident in the field replays from it as a test.

The first line is a header. A dump goes on with three kinds of rows, told apart by the field that only they have:

- `state`: everything the law remembered; a replay can start here.
- `sample`: one tick, with the orders that were given, what was decided (null: nothing new) and the phase after it.
- `wish`: what a user's wish changed in the state.

Dataclasses become objects with all their fields, so new fields of the law need nothing here. `trace_reader.py` is the
other direction; docs/concepts/control-law.md describes both kinds of traces.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Final

from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.sample import DropReusable, Move, Order, Sample, Trim
from flexquant.server.controller.state import Decision, Phase, State

FORMAT: Final = 1
MARK: Final = "flexquant_trace"
"""First field of every trace; its value is FORMAT."""

ORDERS: Final[dict[str, type[Order]]] = {kind.__name__: kind for kind in (Move, DropReusable, Trim)}
_ORDERS: Final = frozenset(ORDERS.values())


@dataclass(frozen=True, slots=True)
class DumpHeader:
    """What a dump begins with.

    Args:
        flexquant: Version that wrote it.
        wall_time: Seconds since 1970 when it was written ...
        now: ... and the same moment on the clock of the rows.
        parameters: Of the law.
        footprints: Of the model.
    """

    flexquant: str
    wall_time: float
    now: float
    parameters: Parameters
    footprints: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the law remembered at one moment."""

    now: float
    state: State


@dataclass(frozen=True, slots=True)
class TickRow:
    """One tick."""

    now: float
    sample: Sample
    orders: tuple[Order, ...]
    decision: Decision | None
    phase: Phase


@dataclass(frozen=True, slots=True)
class WishRow:
    """Fields of the state that a user's wish changed, with their new values."""

    now: float
    wish: Mapping[str, object]


Row = Snapshot | TickRow | WishRow


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump as a whole; the first row is a snapshot."""

    header: DumpHeader
    rows: tuple[Row, ...]


def tick_row(now: float, before: State, sample: Sample, orders: Sequence[Order], after: State) -> TickRow:
    """The row of one call of `decide`."""
    fresh = after.last_decision is not before.last_decision
    return TickRow(now, sample, tuple(orders), after.last_decision if fresh else None, after.phase)


def wish_row(now: float, before: State, after: State) -> WishRow | None:
    """The row of a wish; None if it changed nothing."""
    changed = {
        name: new
        for name in _names(State)
        if (new := getattr(after, name)) is not (old := getattr(before, name)) and new != old
    }
    return WishRow(now, changed) if changed else None


def header_line(kind: str, header: object) -> str:
    """The first line of a trace of this kind (`dump` or `load`); `header` is a dataclass."""
    return _encode({MARK: FORMAT, "kind": kind, **_plain(header)})


def row_line(row: Row) -> str:
    """The line of one row, without its end."""
    return _encode(row)


def dump_lines(dump: Dump) -> list[str]:
    """All lines of a dump."""
    return [header_line("dump", dump.header), *map(row_line, dump.rows)]


def _plain(value: object) -> dict[str, Any]:
    """The fields of a dataclass; orders, which may look alike, carry their name."""
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"a trace holds no {type(value).__name__}")
    kind = type(value)
    plain = {name: getattr(value, name) for name in _names(kind)}
    return {"order": kind.__name__} | plain if kind in _ORDERS else plain


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


_encode: Final = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
# ASCII only: some readers take U+2028 inside of a text for the end of a line.
