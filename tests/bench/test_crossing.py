"""When memory was short and when it had come back, read off a series of looks and a log."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine.decisions import Decision, decisions, first_shrink
from bench.machine.series import (
    Look,
    available,
    crossing,
    given_back,
    longest_pause,
    rate_of_taking,
    settled,
    without_release,
)
from bench.machine.small_machine import Machine
from bench.machine.watch import Processes, ProcessMemory, Watch

MEMORY = 1000
LOOKS = [
    Look(0.0, (400, 100)),
    Look(1.0, (400, 300)),
    Look(2.0, (410, 450)),  # 140 available
    Look(3.0, (300, 550)),
    Look(4.0, (210, 600)),
]


def test_the_crossing_is_the_first_look_below_the_reserve() -> None:
    assert crossing(LOOKS, MEMORY, 150) == 2.0
    assert crossing(LOOKS, MEMORY, 141) == 2.0
    assert crossing(LOOKS, MEMORY, 140) is None
    assert crossing([], MEMORY, 140) is None


def test_bytes_are_given_back_since_the_last_look_before_the_order() -> None:
    assert given_back(LOOKS, since=2.5, nbytes=110) == 3.0
    assert given_back(LOOKS, since=2.0, nbytes=111) == 4.0
    assert given_back(LOOKS, since=1.5, nbytes=190) == 4.0
    assert given_back(LOOKS, since=2.5, nbytes=201) is None


def test_what_is_given_back_puts_the_crossing_off() -> None:
    looks = [Look(0.0, (400, 300)), Look(1.0, (300, 400)), Look(2.0, (200, 500)), Look(3.0, (200, 800))]
    assert crossing(looks, MEMORY, 250) == 3.0
    assert crossing(without_release(looks, since=0.5), MEMORY, 250) == 1.0
    assert without_release(looks, since=-1.0) == looks
    assert without_release(looks, since=9.0) == looks


def test_memory_has_settled_when_it_stays_down() -> None:
    series = [(0.0, 9.0), (1.0, 3.0), (2.0, 6.0), (3.0, 4.0), (4.0, 2.0)]
    assert settled(series, 5.0) == 3.0
    assert settled(series, 9.0) == 0.0
    assert settled(series, 1.0) is None
    assert settled([], 1.0) is None


def test_without_a_look_before_the_order_nothing_can_be_told() -> None:
    with pytest.raises(ValueError, match="before"):
        given_back(LOOKS, since=-1.0, nbytes=1)


def test_how_exact_a_series_is_and_how_fast_the_others_took() -> None:
    assert longest_pause([Look(0.0, ()), Look(0.5, ()), Look(0.7, ())]) == 0.5
    assert longest_pause([]) == 0.0
    assert rate_of_taking(LOOKS, 0.5, 3.5) == 125.0
    assert rate_of_taking(LOOKS, 3.5, 9.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600)), max_size=30), st.integers(0, 500))
def test_nothing_before_a_crossing_is_below_the_reserve(held: list[tuple[int, int]], reserve: int) -> None:
    looks = [Look(float(number), pair) for number, pair in enumerate(held)]
    found = crossing(looks, MEMORY, reserve)
    for look in looks:
        if found is None or look.time < found:
            assert available(look, MEMORY) >= reserve
        elif look.time == found:
            assert available(look, MEMORY) < reserve


def test_decisions_are_read_from_the_daemons_log() -> None:
    lines = [
        "2026-11-26 13:07:17,123 INFO flexquant.server.startup: ready: demo on http://127.0.0.1:1",
        "2026-11-26 13:07:18,250 INFO flexquant.server.control_loop: shrink: position 0 to 12 (machine: 3 MiB)",
        "2026-11-26 13:07:19,000 INFO flexquant.server.elastic_facade: move position_start=0 position_end=12",
        "2026-11-26 13:07:20,500 WARNING flexquant.server.control_loop: critical: position 12 to 57 (machine: 1 MiB)",
        "2026-11-26 13:07:50,500 INFO flexquant.server.control_loop: grow: position 57 to 3 (machine: 9 MiB)",
    ]
    found = list(decisions(lines))
    assert [(item.what, item.begin, item.end) for item in found] == [
        ("shrink", 0, 12),
        ("critical", 12, 57),
        ("grow", 57, 3),
    ]
    assert found[1].when - found[0].when == pytest.approx(2.25)
    assert found[0].when == pytest.approx(time.mktime((2026, 11, 26, 13, 7, 18, 0, 0, -1)) + 0.25)


def test_the_first_order_that_gives_weights_back_counts() -> None:
    found = [
        Decision(1.0, "shrink", 0, 5),
        Decision(2.0, "grow", 5, 0),
        Decision(3.0, "shrink", 0, 0),  # reusable pages alone
        Decision(4.0, "critical", 0, 9),
        Decision(5.0, "shrink", 9, 10),
    ]
    assert first_shrink(found, since=1.5) == found[3]
    assert first_shrink(found, since=5.5) is None


def test_a_decisions_time_is_on_the_clock_of_the_looks() -> None:
    assert Decision(time.time(), "shrink", 0, 1).monotonic == pytest.approx(time.monotonic(), abs=0.1)


def test_a_machine_says_what_the_daemon_has_to_know() -> None:
    machine = Machine(4 << 20, critical=1, low=2, target=3, high=4)
    assert machine.flags([7, 8]) == [
        "--simulated-memory=4194304",
        "--simulated-pids=7,8",
        "--reserve-critical=1",
        "--reserve-low=2",
        "--reserve-target=3",
        "--reserve-high=4",
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_processes_are_looked_at_from_outside() -> None:
    with Watch(Processes([os.getpid()]), per_second=500) as watch:
        deadline = time.monotonic() + 30
        while len(watch.looks) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
    anonymous, files = ProcessMemory(os.getpid()).read()
    assert anonymous > 1 << 20
    assert files > 1 << 20
    assert len(watch.looks) >= 5
    assert all(look.held[0] > 1 << 20 for look in watch.looks)
    assert [look.time for look in watch.looks] == sorted(look.time for look in watch.looks)
