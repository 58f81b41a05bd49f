"""Traces: what is written is read back exactly, and what is damaged is refused with the line and the field."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import InputError
from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.sample import DropReusable, MemoryReading, Move, Sample, StressReading, Trim
from flexquant.server.controller.state import Decision, Pin, State, WorstPosition
from flexquant.server.controller.trace import Dump, DumpHeader, Snapshot, TickRow, WishRow, dump_lines, row_line
from flexquant.server.controller.track import Track
from flexquant.server.simulation.trace_reader import read_trace

TIMES = st.floats(0, 1e9)
BYTES = st.integers(-(2**50), 2**50)
NAMES = st.text(max_size=6)
TRACKS = st.builds(Track, st.lists(st.tuples(TIMES, BYTES), max_size=3).map(tuple))
SAMPLES = st.builds(
    Sample,
    memory=st.lists(st.builds(MemoryReading, NAMES, BYTES, BYTES, st.booleans()), max_size=3).map(tuple),
    failed=st.lists(NAMES, max_size=2).map(tuple),
    stress=st.lists(st.from_type(StressReading), max_size=2).map(tuple),
    position=st.integers(0, 100),
    target=st.integers(0, 100),
    elastic_bytes=BYTES,
    private_bytes=st.none() | BYTES,
)
DECISIONS = st.from_type(Decision)
# from_type fills every field by its type: those that the law grows later are tried out without a word here.
STATES = st.builds(
    lambda state, tracks: replace(state, tracks=tracks), st.from_type(State), st.dictionaries(NAMES, TRACKS)
)
ORDERS = st.lists(st.from_type(Move) | st.just(DropReusable()) | st.just(Trim()), max_size=3).map(tuple)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "pin": st.none() | st.builds(Pin, st.integers(), TIMES, st.none() | TIMES),
        "worst": st.none() | st.builds(WorstPosition, st.integers(), st.none() | TIMES),
        "override": st.booleans(),
        "failed_at": st.none() | TIMES,
    },
)
ROWS = st.lists(
    st.builds(Snapshot, TIMES, STATES)
    | st.builds(TickRow, TIMES, SAMPLES, ORDERS, st.none() | DECISIONS, st.sampled_from(["hold", "grow", "blind"]))
    | st.builds(WishRow, TIMES, WISHES),
    max_size=3,
)
HEADER = DumpHeader("0.1.0", 1.7e9, 12.5, Parameters(profile="polite", seed=3), (300, 200, 200, 100))
SAMPLE = Sample(
    (MemoryReading("host", 5, 16),), (), position=1, target=1, moving=False, elastic_bytes=200, private_bytes=7
)
DUMP = Dump(
    HEADER,
    (
        Snapshot(1.0, State(pin=Pin(1, 0.5, None))),
        TickRow(
            1.0, SAMPLE, (Move(2, urgent=True), DropReusable(), Trim()), Decision("shrink", "why", 1.0, 1, 2), "shrink"
        ),
        WishRow(1.5, {"pin": None, "worst": WorstPosition(2, 9.0), "override": False}),
        TickRow(2.0, SAMPLE, (), None, "hold"),
    ),
)


@settings(deadline=None, max_examples=60)
@given(first=STATES, rows=ROWS, at=st.floats(1.7e9, 1.8e9))
def test_every_dump_comes_back_exactly(first: State, rows: list[Any], at: float) -> None:
    header = replace(HEADER, wall_time=at)
    dump = Dump(header, (Snapshot(0.0, first), *sorted(rows, key=lambda row: row.now)))
    assert repr(read_trace(dump_lines(dump), "x")) == repr(dump)  # by their text: NaN differs from itself


def test_lines_are_one_line_each_and_ascii() -> None:
    state = State(last_decision=Decision("grow", "line\u2028break\nä", 0.0, 1, 0))
    line = row_line(Snapshot(0.0, state))
    assert line.isascii()
    assert line.splitlines() == [line]


def test_a_file_of_a_later_version_may_have_more_fields() -> None:
    lines = dump_lines(DUMP)
    lines[2] = lines[2].replace('"phase"', '"weather":"fair","phase"')
    assert read_trace(lines, "x") == DUMP


def _damaged(line: int, *path: str | int, value: object) -> list[str]:
    """The lines of DUMP with one value replaced."""
    lines = dump_lines(DUMP)
    found = json.loads(lines[line - 1])
    *parents, last = path
    inner = found
    for key in parents:
        inner = inner[key]
    inner[last] = value
    lines[line - 1] = json.dumps(found)
    return lines


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "x: no FlexQuant trace"),
        (["{}"], "x: no FlexQuant trace"),
        (["hello"], "x, line 1: no JSON: "),
        (["[1]"], "x, line 1: no JSON object"),
        (["[" * 100_000], "x, line 1: no JSON: too deep"),
        (['{"flexquant_trace":2}'], "x: a trace of format 2; this version reads format 1"),
        (['{"flexquant_trace":1,"kind":"film"}'], "x, line 1: kind: 'film' is neither 'dump' nor 'load'"),
        (dump_lines(DUMP)[:1], "x: the dump has no rows after line 1"),
        (dump_lines(DUMP)[:1] + dump_lines(DUMP)[2:], "x, line 2: state: a dump begins with one"),
        ([*dump_lines(DUMP)[:2], dump_lines(DUMP)[2][:40]], "x, line 3: no JSON: "),
        (_damaged(1, "footprints", value=[1, 2]), "x, line 1: footprints: not bytes in descending order"),
        (_damaged(1, "footprints", value=[]), "x, line 1: footprints: not bytes"),
        (_damaged(1, "parameters", "grow_window_s", value="long"), "x, line 1: parameters.grow_window_s: "),
        (_damaged(2, "state", "pin", "position", value=None), "x, line 2: state.pin.position: "),
        (_damaged(3, "now", value=0.5), "x, line 3: now: 0.5 comes after 1.0"),
        (_damaged(3, "sample", "memory", 0, "available", value="much"), "x, line 3: sample.memory.0.available: "),
        (_damaged(3, "sample", value=None), "x, line 3: sample: "),
        (_damaged(3, "orders", value={}), "x, line 3: orders: no list"),
        (_damaged(3, "orders", 0, "order", value="Dance"), "x, line 3: orders.0.order: 'Dance' is none of Move"),
        (_damaged(3, "orders", 0, "position", value="far"), "x, line 3: orders.0.position: "),
        (_damaged(3, "phase", value="moon"), "x, line 3: phase: "),
        (_damaged(4, "wish", "mood", value=1), "x, line 4: wish.mood: the state has no such field"),
        (_damaged(4, "wish", "worst", value=4), "x, line 4: wish.worst: "),
        ([*dump_lines(DUMP), '{"now":3}'], "x, line 6: none of the fields state, sample and wish"),
    ],
)
def test_damage_is_told_with_line_and_field(lines: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(lines, "x")
    assert said in caught.value.message
    assert "\n" not in caught.value.message


LOAD = ['{"flexquant_trace":1,"kind":"load","name":"l","seconds":10}', '{"at":0,"bytes":5}', '{"at":4,"bytes":9}']


@pytest.mark.parametrize(
    ("line", "new", "said"),
    [
        (1, '{"flexquant_trace":1,"kind":"load","name":"l"}', "x, line 1: seconds: "),
        (1, LOAD[0].replace("10}", "-1}"), "x, line 1: seconds: -1 is not between"),
        (1, LOAD[0].replace("10}", '10,"up":3,"low":4}'), "x, line 1: up, low: "),
        (1, LOAD[0].replace("10}", '10,"steps":0}'), "x, line 1: steps: "),
        (1, LOAD[0].replace("10}", '10,"daemons":9}'), "x, line 1: daemons: "),
        (2, '{"at":0}', "x, line 2: bytes: "),
        (2, '{"at":0,"bytes":-5}', "x, line 2: bytes: "),
        (2, '{"at":0,"bytes":NaN}', "x, line 2: bytes: "),
        (2, '{"at":Infinity,"bytes":1}', "x, line 2: at: "),
        (2, '{"at":0,"bytes":1,"some":1.5}', "x, line 2: some: "),
        (2, '{"at":7,"bytes":1}', "x, line 3: at: 4 comes after 7"),
    ],
)
def test_damaged_loads_are_refused(line: int, new: str, said: str) -> None:
    lines = [new if number == line else old for number, old in enumerate(LOAD, start=1)]
    with pytest.raises(InputError) as caught:
        read_trace(lines, "x")
    assert said in caught.value.message


def test_a_load_without_points_is_refused() -> None:
    with pytest.raises(InputError, match="no points after line 1"):
        read_trace(LOAD[:1], "x")


@settings(deadline=None, max_examples=200)
@given(lines=st.lists(st.sampled_from([*dump_lines(DUMP), *LOAD]) | st.text(max_size=20), max_size=5))
def test_whatever_the_file_holds_it_is_read_or_refused(lines: list[str]) -> None:
    with suppress(InputError):
        read_trace(lines, "x")
