"""Replays a dump: does this version of the law decide what the daemon decided, from the same samples?"""

from dataclasses import dataclass, fields, replace

from flexquant.engine.errors import InputError
from flexquant.server.controller.law import Law
from flexquant.server.controller.sample import Move, Order, Sample
from flexquant.server.controller.state import State
from flexquant.server.controller.trace import Dump, Snapshot, TickRow, WishRow, tick_row
from flexquant.server.simulation.plant import Tick


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay leaves the recording.

    Args:
        row: Of the dump, counted from 1; in the file that is one line further down.
        now: On the clock of the rows.
        what: "orders", "decision", "phase", or the fields of a state that differ.
        recorded: As people read it.
        replayed: The same.
    """

    row: int
    now: float
    what: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay gave.

    Args:
        ticks: That decided the same.
        difference: The first one, where the replay ended; None if there is none.
    """

    ticks: int
    difference: Difference | None


def replay(dump: Dump) -> Replay:
    """Call `decide` with every sample of the dump until something differs.

    Raises:
        InputError: The rows do not belong together: the law cannot work with them.
    """
    law, state, same = Law(dump.header.parameters, dump.header.footprints), State(), 0
    for number, row in enumerate(dump.rows, start=1):
        if isinstance(row, Snapshot):
            if number > 1 and row.state != state:
                return Replay(same, _states_differ(number, row, state))
            state = row.state
        elif isinstance(row, WishRow):
            state = replace(state, **row.wish)  # type: ignore[arg-type]  # read with the types of these fields
        else:
            before = state
            state, orders = _decide(law, state, row.sample, row.now, number)
            difference = _compare(number, row, tick_row(row.now, before, row.sample, orders, state))
            if difference is not None:
                return Replay(same, difference)
            same += 1
    return Replay(same, None)


def recorded_ticks(dump: Dump) -> list[Tick]:
    """The dump's ticks as those of a simulated run; those without a reading are left out.

    Available is what the tightest source reads. The state of each is what the dump has of it: the phase.
    """
    rows = [row for row in dump.rows if isinstance(row, TickRow)]
    ends = [row.now for row in rows[1:]] + [row.now for row in rows[-1:]]
    return [
        Tick(
            at=row.now,
            lasts=end - row.now,
            available=min(reading.available for reading in row.sample.memory),
            position=row.sample.position,
            target=next((order.position for order in row.orders if isinstance(order, Move)), row.sample.target),
            orders=row.orders,
            state=State(phase=row.phase),
        )
        for row, end in zip(rows, ends, strict=True)
        if row.sample.memory
    ]


def _decide(law: Law, state: State, sample: Sample, now: float, number: int) -> tuple[State, tuple[Order, ...]]:
    try:
        return law.decide(state, sample, now)
    except (LookupError, ArithmeticError, ValueError) as error:
        raise InputError(
            f"row {number} of the dump: the law cannot work with it: {type(error).__name__}: {error}"
        ) from error


def _compare(number: int, recorded: TickRow, replayed: TickRow) -> Difference | None:
    for what in ("orders", "decision", "phase"):
        old, new = getattr(recorded, what), getattr(replayed, what)
        if old != new:
            return Difference(number, recorded.now, what, str(old), str(new))
    return None


def _states_differ(number: int, recorded: Snapshot, replayed: State) -> Difference:
    names = [f.name for f in fields(State) if getattr(recorded.state, f.name) != getattr(replayed, f.name)]
    old, new = ({name: getattr(state, name) for name in names} for state in (recorded.state, replayed))
    return Difference(number, recorded.now, f"state: {', '.join(names)}", str(old), str(new))
