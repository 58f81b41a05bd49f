"""The ring of what the law saw: enough of the past, in little memory, unmoved while it is read."""

import gc
import json
import tracemalloc
from dataclasses import replace

import pytest

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, MIB, Parameters
from flexquant.server.controller.ring import Ring
from flexquant.server.controller.sample import MemoryReading, Sample, StressReading
from flexquant.server.controller.state import Pin, State
from flexquant.server.controller.trace import Dump, DumpHeader, Snapshot, TickRow, WishRow
from flexquant.server.simulation.plant import even_footprints
from flexquant.server.simulation.trace_reader import read_trace

FOOTPRINTS = even_footprints()
HEADER = DumpHeader("0.1.0", 5e8, 1000.0, Parameters(), FOOTPRINTS)


def sample(now: float, sources: int = 1) -> Sample:
    """A plausible sample; the values differ from tick to tick, as real ones do."""
    wobble = round(1e6 * (now * 7.3 % 5))
    return Sample(
        memory=tuple(MemoryReading(f"source{n}", 6 * GIB + wobble + n, 16 * GIB) for n in range(sources)),
        failed=(),
        position=0,
        target=0,
        moving=False,
        elastic_bytes=FOOTPRINTS[0],
        stress=(StressReading("psi", some_us=wobble, full_us=wobble // 3, some_avg10=0.0, some_avg60=0.0),),
        private_bytes=4 * GIB + wobble,
    )


def run(ring: Ring, ticks: int, *, first: int = 0, state: State | None = None, sources: int = 1) -> State:
    """Note so many ticks, four per second, with the law's own states."""
    law = Law(HEADER.parameters, FOOTPRINTS)
    state = State() if state is None else state
    for index in range(first, first + ticks):
        now = 0.25 * index
        before = state
        state, orders = law.decide(before, sample(now, sources), now)
        ring.tick(now, before, sample(now, sources), orders, state)
    return state


def dumped(ring: Ring) -> Dump:
    found = read_trace(ring.dump(HEADER), "ring")
    assert isinstance(found, Dump)
    return found


def test_ticks_come_back_in_order_after_the_state_before_them() -> None:
    ring = Ring()
    run(ring, 200)
    first, *ticks = dumped(ring).rows
    assert first == Snapshot(0.0, State())
    assert [row.now for row in ticks] == [0.25 * index for index in range(200)]
    assert all(isinstance(row, TickRow) and row.sample == sample(row.now) for row in ticks)


def test_an_empty_ring_gives_the_header_alone() -> None:
    assert [json.loads(line)["kind"] for line in Ring().dump(HEADER)] == ["dump"]


@pytest.mark.parametrize("ticks", [2401, 4000, 4800, 7201, 9999])
def test_ten_minutes_are_there_and_never_more_than_twenty(ticks: int) -> None:
    ring, state = Ring(), State()
    for index in range(ticks):
        ring.tick(0.25 * index, state, sample(0), (), state)
    rows = dumped(ring).rows
    newest = 0.25 * (ticks - 1)
    assert 600 <= newest - rows[0].now <= 1200
    assert rows[-1].now == newest
    assert isinstance(rows[0], Snapshot)


def test_rows_are_bounded_whatever_the_clock_says() -> None:
    ring, state = Ring(most_rows=100), State()
    for _ in range(1000):
        ring.tick(5.0, state, sample(0), (), state)
    assert len(dumped(ring).rows) <= 2 * (100 + 1)


def test_a_wish_is_noted_with_what_it_changed_and_nothing_else() -> None:
    ring = Ring()
    state = run(ring, 3)
    pinned = replace(state, pin=Pin(7, 0.6, None), override=False)
    ring.wish(0.6, pinned)
    ring.wish(0.6, replace(pinned))  # an equal state: nothing new
    ring.tick(0.75, pinned, sample(0.75), (), pinned)
    assert dumped(ring).rows[-2] == WishRow(0.6, {"pin": Pin(7, 0.6, None)})


def test_a_wish_that_nobody_told_of_is_noticed_at_the_next_tick() -> None:
    ring = Ring()
    pinned = replace(run(ring, 3), pin=Pin(7, 0.6, None))
    ring.tick(0.75, pinned, sample(0.75), (), pinned)
    assert dumped(ring).rows[-2] == WishRow(0.75, {"pin": Pin(7, 0.6, None)})


def test_a_wish_before_the_first_tick_is_in_its_state() -> None:
    ring, pinned = Ring(), State(pin=Pin(2, 0.0, None))
    ring.wish(0.0, pinned)
    run(ring, 1, state=pinned)
    assert dumped(ring).rows[0] == Snapshot(0.0, pinned)


def test_a_dump_does_not_move_while_it_is_read() -> None:
    ring = Ring()
    state = run(ring, 100)
    lines = ring.dump(HEADER)
    next(lines)
    run(ring, 5000, first=100, state=state)
    assert len(list(lines)) == 1 + 100


def test_ten_minutes_with_three_sources_take_little_memory() -> None:
    tracemalloc.start()
    try:
        ring, before = Ring(), tracemalloc.get_traced_memory()[0]
        run(ring, 2400, sources=3)
        gc.collect()  # empties the interpreter's own stores of tuples, too
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < MIB // 2, taken
