"""The controller carries out more than moves: caches, trims, admission, recordings."""

import json
import logging

import pytest

from flexquant.server.api_error import ApiError
from flexquant.server.controller.parameters import MIB
from flexquant.server.controller.sample import StressReading
from flexquant.server.simulation.replay import replay
from flexquant.server.simulation.trace_reader import read_trace
from support.controlled import FOOTPRINTS, RESERVES, Rig

LAST = len(FOOTPRINTS) - 1


def test_pages_that_nobody_has_go_first() -> None:
    rig = Rig()
    rig.elastic.kv = rig.elastic.reusable = RESERVES.target
    rig.leave(RESERVES.low - MIB)
    state = rig.tick()
    assert (rig.elastic.relief, rig.elastic.orders) == (["reusable"], [])
    assert state.last_decision is not None
    assert state.last_decision.what == "caches"


def test_after_a_shrink_the_heap_is_trimmed_once() -> None:
    rig = Rig()
    rig.leave(RESERVES.low - MIB)
    rig.tick(20.0)
    assert rig.elastic.orders != []
    assert rig.elastic.relief == ["trim"]


def test_released_bytes_that_stay_are_told(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.leave(RESERVES.low - MIB)
    rig.tick(0.25)
    rig.stays = FOOTPRINTS[0] - FOOTPRINTS[rig.elastic.position]
    caplog.set_level(logging.WARNING)
    state = rig.tick(20.0)
    assert state.release_efficiency is not None
    assert state.release_efficiency < 0.5
    assert state.retained_bytes > 0
    assert "have not arrived" in caplog.text


def test_requests_are_promised_what_memory_has() -> None:
    rig = Rig()
    rig.leave(RESERVES.low + 100 * MIB)
    rig.tick()
    assert rig.gate.admit(60 * MIB)
    rig.elastic.kv_promised = 60 * MIB
    rig.gate.reserved()
    assert not rig.gate.admit(60 * MIB)
    assert rig.elastic.orders == []
    rig.tick()
    assert rig.elastic.orders != [], "the model makes room for the one who waits"
    rig.tick()
    assert rig.gate.admit(60 * MIB)


def test_where_no_room_can_be_made_requests_are_refused() -> None:
    rig = Rig(pin=0)
    rig.leave(RESERVES.critical + 50 * MIB)
    rig.tick(0.5)
    assert rig.gate.admit(50 * MIB)
    rig.gate.take_back(50 * MIB)
    with pytest.raises(ApiError, match="Memory is short") as refused:
        rig.gate.admit(51 * MIB)
    assert refused.value.status == 503


def test_the_floor_refuses_new_work_and_says_so() -> None:
    rig = Rig()
    rig.leave(RESERVES.critical - 4 * FOOTPRINTS[0])
    state = rig.tick(10.0)
    assert state.phase == "floor"
    assert state.refusing is not None
    with pytest.raises(ApiError) as refused:
        rig.gate.check()
    assert (refused.value.status, refused.value.code) == (503, "memory_critical")
    rig.leave(RESERVES.target)
    state = rig.tick(11.0)
    assert (state.phase, state.refusing) == ("cooldown", None)
    rig.gate.check()


def test_stress_is_sampled_and_shown() -> None:
    rig = Rig()
    rig.stress = [StressReading("macos", level="critical")]
    state = rig.tick()
    assert state.stress == tuple(rig.stress)
    assert rig.elastic.orders[0][1], "urgent"


def test_what_was_recorded_replays_to_the_same_decisions() -> None:
    rig = Rig()
    rig.tick(5.0)
    rig.leave(RESERVES.low - MIB)
    rig.tick(5.0)
    rig.leave(3 * RESERVES.high)
    rig.tick(100.0)
    lines = list(rig.controller.trace())
    dump = read_trace([f"{line}\n" for line in lines], "test")
    found = replay(dump)  # type: ignore[arg-type]  # a dump, as the header says
    assert json.loads(lines[0])["kind"] == "dump"
    assert found.difference is None
    assert found.ticks == 440


def test_a_reading_of_the_process_that_fails_does_not_end_control(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()

    def broken() -> int:
        raise OSError("no /proc")

    rig.controller._private_bytes = broken
    rig.leave(RESERVES.low - MIB)
    rig.tick(10.0)
    assert rig.elastic.orders != []
    assert caplog.text.count("no /proc") == 1, "told once"
