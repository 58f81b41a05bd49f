"""A recorded run replays to the same decisions, and a change of the law shows where they part."""

from dataclasses import replace

import pytest

from flexquant.engine.errors import InputError
from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, Parameters
from flexquant.server.controller.ring import Ring
from flexquant.server.controller.sample import MemoryReading, Sample
from flexquant.server.controller.state import Pin, State, WorstPosition
from flexquant.server.controller.trace import Dump, DumpHeader, Snapshot, TickRow
from flexquant.server.simulation.outcome import outcome_of
from flexquant.server.simulation.plant import even_footprints
from flexquant.server.simulation.replay import recorded_ticks, replay
from flexquant.server.simulation.trace_reader import read_trace

FOOTPRINTS = even_footprints()
PARAMETERS = Parameters(seed=11)


def recorded(seconds: int = 900) -> Dump:
    """A daemon's quarter of an hour: others come and go, sources fall silent, the user pins and limits."""
    ring, law, state = Ring(), Law(PARAMETERS, FOOTPRINTS), State()
    position = target = 0
    for index in range(4 * seconds):
        now = 1000 + 0.25 * index
        others = (8 if index % 1000 < 500 else 12.5 if index % 1000 < 800 else 15) * GIB
        free = round(16 * GIB - others) - FOOTPRINTS[position]
        silent = index % 700 < 20
        if index == 900:
            state = replace(state, pin=Pin(20, now, now + 60), override=False, failed_at=None)
            ring.wish(now, state)
        if index == 1700:
            state = replace(state, worst=WorstPosition(20, now + 100))
            ring.wish(now, state)
        sample = Sample(
            memory=() if silent else (MemoryReading("host", free, 16 * GIB),),
            failed=("host",) if silent else (),
            position=position,
            target=target,
            moving=position != target,
            elastic_bytes=FOOTPRINTS[position],
            move_failed=index == 1500,
        )
        before = state
        state, orders = law.decide(before, sample, now)
        ring.tick(now, before, sample, orders, state)
        position = target
        target = next((order.position for order in orders if hasattr(order, "position")), target)
    header = DumpHeader("0.1.0", 5e8, 1900.0, PARAMETERS, FOOTPRINTS)
    dump = read_trace(ring.dump(header), "x")
    assert isinstance(dump, Dump)
    return dump


DUMP = recorded()


def test_the_recording_is_worth_replaying() -> None:
    rows = [row for row in DUMP.rows if isinstance(row, TickRow)]
    assert {row.decision.what for row in rows if row.decision} >= {"critical", "grow", "pin", "worst_position", "blind"}
    assert sum(isinstance(row, Snapshot) for row in DUMP.rows) == 2


def test_the_same_law_decides_the_same() -> None:
    found = replay(DUMP)
    assert found.difference is None
    assert found.ticks == sum(isinstance(row, TickRow) for row in DUMP.rows)


def test_a_replay_can_start_at_the_second_state() -> None:
    start = max(index for index, row in enumerate(DUMP.rows) if isinstance(row, Snapshot))
    found = replay(Dump(DUMP.header, DUMP.rows[start:]))
    assert found.difference is None
    assert found.ticks > 1000


def test_other_parameters_part_at_a_decision() -> None:
    header = replace(DUMP.header, parameters=replace(PARAMETERS, cooldown_s=300.0))
    difference = replay(Dump(header, DUMP.rows)).difference
    assert difference is not None
    assert difference.now == DUMP.rows[difference.row - 1].now


@pytest.mark.parametrize("what", ["orders", "decision", "phase"])
def test_one_changed_row_is_found(what: str) -> None:
    rows = list(DUMP.rows)
    at = next(index for index, row in enumerate(rows) if isinstance(row, TickRow) and row.orders and row.decision)
    row = rows[at]
    assert isinstance(row, TickRow)
    rows[at] = (
        replace(row, orders=())
        if what == "orders"
        else replace(row, decision=None)
        if what == "decision"
        else replace(row, phase="floor")
    )
    found = replay(Dump(DUMP.header, tuple(rows)))
    assert found.difference is not None
    assert (found.difference.row, found.difference.what) == (at + 1, what)


def test_a_state_that_does_not_follow_from_the_rows_before_is_found() -> None:
    rows = list(DUMP.rows)
    at = max(index for index, row in enumerate(rows) if isinstance(row, Snapshot))
    row = rows[at]
    assert isinstance(row, Snapshot)
    rows[at] = replace(row, state=replace(row.state, draws=99, regrets=9))
    difference = replay(Dump(DUMP.header, tuple(rows))).difference
    assert difference is not None
    assert difference.what == "state: regrets, draws"
    assert "'draws': 99" in difference.recorded


def test_rows_that_do_not_fit_the_model_are_refused() -> None:
    rows = tuple(
        replace(row, sample=replace(row.sample, position=999, target=999)) if isinstance(row, TickRow) else row
        for row in DUMP.rows
    )
    with pytest.raises(InputError, match="row 2 of the dump: the law cannot work with it"):
        replay(Dump(DUMP.header, rows))


def test_a_dump_is_summarised_like_a_run() -> None:
    ticks = recorded_ticks(DUMP)
    reserves = PARAMETERS.reserves(16 * GIB, shared=True, largest_step=FOOTPRINTS[0] - FOOTPRINTS[1])
    outcome = outcome_of(ticks, FOOTPRINTS, reserves.critical)
    assert outcome.seconds == pytest.approx(900, abs=60)  # less the time without a reading
    assert outcome.reversals >= 1
    assert outcome.late_ticks >= 1
    assert outcome.least_available < reserves.critical
    assert sum(outcome.phases.values()) == pytest.approx(outcome.seconds)
