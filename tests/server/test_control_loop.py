"""The controller around the law: wishes, waiting, the state that is shown, failures."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import asdict, replace

import pytest

from flexquant.engine.errors import SwapError, UsageError
from flexquant.server.controller.parameters import GIB, MIB, Parameters
from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.elastic_state import ElasticState
from support.controlled import FOOTPRINTS, RESERVES, TOTAL, Rig


def _run(coroutine: Coroutine[object, object, ElasticState]) -> ElasticState:
    return asyncio.run(_within_reason(coroutine))


async def _within_reason(coroutine: Coroutine[object, object, ElasticState]) -> ElasticState:
    async with asyncio.timeout(60):
        return await coroutine


def test_the_state_has_every_field() -> None:
    rig = Rig()
    state = rig.tick()
    assert asdict(state) == {
        "position": 0,
        "max_position": 10,
        "target": 0,
        "footprint_bytes": FOOTPRINTS[0],
        "footprint_range_bytes": (FOOTPRINTS[10], FOOTPRINTS[0]),
        "mode": "auto",
        "pinned_position": None,
        "worst_position": 10,
        "ttl_seconds": None,
        "override": None,
        "available_bytes": 11 * GIB,
        "pressure": "none",
        "phase": "hold",
        "refusing": None,
        "quality": {"perplexity": 10.0, "kl": 0.0},
        "last_decision": None,
        "release_efficiency": None,
        "retained_bytes": 0,
        "memory": asdict(rig.elastic.memory_state()),
        "sources": (
            {
                "name": "host",
                "available_bytes": 11 * GIB,
                "total_bytes": TOTAL,
                "error": None,
                "reserves": asdict(RESERVES),
            },
        ),
        "stress": (),
    }


def test_sequence_tells_every_position() -> None:
    positions = Rig().controller.sequence().positions
    assert [found.footprint_bytes for found in positions] == list(FOOTPRINTS)
    assert [(found.perplexity, found.kl) for found in positions] == [(10.0 + k, 0.01 * k) for k in range(11)]


def test_before_the_first_tick_pressure_is_unknown() -> None:
    state = Rig().controller.state()
    assert (state.pressure, state.available_bytes) == ("unknown", None)
    assert state.sources == ()


def test_low_memory_shrinks_and_the_state_says_why() -> None:
    rig = Rig()
    rig.tick()
    rig.leave(RESERVES.target - 640 * MIB)
    state = rig.tick()
    assert state.pressure == "none"  # the model has already made room
    assert state.position > 0
    assert state.footprint_bytes == FOOTPRINTS[state.position]
    assert state.quality.perplexity == 10.0 + state.position
    assert state.last_decision is not None
    assert state.last_decision.what in ("shrink", "critical")
    assert "host" in state.last_decision.why
    assert state.last_decision.when == 5e8
    assert (state.last_decision.from_position, state.last_decision.to_position) == (0, state.position)


@pytest.mark.parametrize(
    ("available", "pressure"),
    [(RESERVES.critical - 1, "critical"), (RESERVES.critical, "low"), (RESERVES.low, "none")],
)
def test_pressure_goes_by_the_reserves(available: int, pressure: str) -> None:
    rig = Rig()
    rig.elastic.at_once = False
    rig.leave(available)
    assert rig.tick().pressure == pressure


def test_a_silent_source_is_shown_and_nothing_moves() -> None:
    rig = Rig()
    rig.tick(1.0)
    rig.silent = True
    state = rig.tick(5.0)
    assert (state.pressure, state.phase, state.available_bytes) == ("unknown", "blind", None)
    assert state.sources[0].error == "OSError: no answer"
    assert state.sources[0].reserves is None
    assert rig.elastic.orders == []


def test_a_pin_answers_when_the_move_was_carried_out() -> None:
    rig = Rig()
    rig.elastic.at_once = False

    async def scenario() -> ElasticState:
        pin = asyncio.create_task(rig.controller.pin_position(7))
        await asyncio.to_thread(rig.elastic.ordered.wait)
        assert not pin.done()
        rig.elastic.arrive()
        return await pin

    state = _run(scenario())
    assert (state.position, state.target, state.mode, state.pinned_position) == (7, 7, "pinned", 7)
    assert state.last_decision is not None
    assert state.last_decision.what == "pin"


def test_a_pin_waits_for_the_move_that_supersedes_its_own() -> None:
    rig = Rig()
    rig.elastic.at_once = False

    async def scenario() -> ElasticState:
        first = asyncio.create_task(rig.controller.pin_position(7))
        await asyncio.to_thread(rig.elastic.ordered.wait)
        rig.elastic.ordered.clear()
        superseded = rig.elastic._move
        second = asyncio.create_task(rig.controller.pin_position(3))
        await asyncio.to_thread(rig.elastic.ordered.wait)
        superseded.cancel()
        rig.elastic.arrive()
        await second
        return await first

    assert _run(scenario()).position == 3


def test_a_client_that_goes_away_does_not_cancel_the_move() -> None:
    rig = Rig()
    rig.elastic.at_once = False

    async def scenario() -> ElasticState:
        pin = asyncio.create_task(rig.controller.pin_position(7))
        await asyncio.to_thread(rig.elastic.ordered.wait)
        pin.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pin
        rig.elastic.arrive()
        return rig.controller.state()

    assert _run(scenario()).position == 7


def test_a_move_that_fails_is_told_and_the_position_stays(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.elastic.at_once = False

    async def scenario() -> ElasticState:
        pin = asyncio.create_task(rig.controller.pin_position(7))
        await asyncio.to_thread(rig.elastic.ordered.wait)
        rig.elastic.fail()
        return await pin

    with pytest.raises(SwapError, match="short read"):
        _run(scenario())
    assert rig.tick().position == 0
    assert "short read" in caplog.text
    rig.tick(10.0)
    assert rig.elastic.orders == [(7, False)]  # not again before the cool-down


def test_bytes_give_the_best_position_that_fits() -> None:
    rig = Rig()
    assert _run(rig.controller.pin_bytes(FOOTPRINTS[4])).position == 4
    assert _run(rig.controller.pin_bytes(FOOTPRINTS[4] - 1)).position == 5
    assert _run(rig.controller.pin_bytes(1 << 60)).position == 0


def test_bytes_below_the_range_name_the_range() -> None:
    with pytest.raises(UsageError, match=f"from {FOOTPRINTS[10]} to {FOOTPRINTS[0]}"):
        _run(Rig().controller.pin_bytes(FOOTPRINTS[10] - 1))


@pytest.mark.parametrize("position", [-1, 11])
def test_a_position_out_of_range_is_refused(position: int) -> None:
    rig = Rig()
    for call in (rig.controller.pin_position, rig.controller.set_worst):
        with pytest.raises(UsageError, match="positions 0 to 10"):
            _run(call(position))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_to_live_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(UsageError, match="ttl_seconds"):
        _run(Rig().controller.pin_position(1, seconds))


def test_a_pin_ends_with_its_time() -> None:
    rig = Rig()
    assert _run(rig.controller.pin_position(7, 10.0)).ttl_seconds == 10.0
    rig.now += 4
    assert rig.controller.state().ttl_seconds == 6.0
    rig.now += 6
    state = rig.controller.state()
    assert (state.mode, state.ttl_seconds, state.position) == ("auto", None, 7)
    assert rig.tick(60.0).position == 0  # memory is plentiful: it grows back


def test_auto_follows_the_memory_again() -> None:
    rig = Rig()
    _run(rig.controller.pin_position(7))
    assert _run(rig.controller.auto()).mode == "auto"
    assert rig.tick(60.0).position == 0


def test_auto_for_a_time_gives_the_pin_back_afterwards() -> None:
    rig = Rig()
    _run(rig.controller.pin_position(7))
    assert _run(rig.controller.auto(60.0)).mode == "auto"
    assert rig.tick(59.0).position == 0
    state = rig.tick(2.0)
    assert (state.mode, state.position) == ("pinned", 7)


def test_critical_memory_overrides_a_pin_and_says_so() -> None:
    rig = Rig()
    _run(rig.controller.pin_position(2))
    rig.leave(RESERVES.critical - MIB)
    state = rig.tick()
    assert state.position > 2
    assert (state.mode, state.pinned_position, state.override) == ("pinned", 2, "critical")
    assert rig.elastic.orders[-1] == (state.position, True)
    rig.others = 4 * GIB
    state = rig.tick(120.0)
    assert (state.position, state.override) == (2, None)


def test_the_worst_position_binds_pins_and_pressure() -> None:
    rig = Rig()
    assert _run(rig.controller.set_worst(4)).worst_position == 4
    with pytest.raises(UsageError, match="worst_position 4"):
        _run(rig.controller.pin_position(5))
    rig.leave(0)
    assert rig.tick(5.0).position == 4


def test_a_new_worst_position_pulls_the_model_back() -> None:
    rig = Rig()
    _run(rig.controller.pin_position(9))
    state = _run(rig.controller.set_worst(4))
    assert (state.position, state.pinned_position) == (4, 4)
    state = _run(rig.controller.set_worst(10))
    assert (state.position, state.pinned_position) == (9, 9)


def test_limits_may_hold_from_the_start() -> None:
    rig = Rig(pin=3, worst_position=4)
    assert rig.tick().position == 3
    with pytest.raises(UsageError, match="beyond worst_position 2"):
        Rig(pin=3, worst_position=2)


def test_a_step_published_during_the_reading_is_read_again() -> None:
    """A + W must belong together: 32 MiB counted twice would look like room, or like a fall."""
    rig = Rig()
    read, published = rig.read, threading.Event()

    def read_while_moving() -> list[MemoryReading | StressReading]:
        reading = read()
        if not published.is_set():
            published.set()
            rig.elastic.position = rig.elastic.target = 1
        return reading

    rig.read = read_while_moving  # type: ignore[method-assign]  # the test stands in for the source
    state = rig.tick()
    assert state.available_bytes == TOTAL - rig.others - FOOTPRINTS[1]


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_the_thread_ticks_until_it_is_stopped_and_survives_a_broken_tick(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(replace(Parameters(), tick_least_s=0.01, tick_most_s=0.01))
    order = rig.elastic.request_position

    def broken(position: int, *, urgent: bool) -> Future[int]:
        raise RuntimeError("model is gone")

    rig.elastic.request_position = broken  # type: ignore[method-assign]  # the test stands in for the model
    rig.leave(0)
    caplog.set_level(logging.ERROR)
    rig.controller.start()
    try:
        assert _eventually(lambda: "model is gone" in caplog.text)
        rig.elastic.request_position = order  # type: ignore[method-assign]  # as above
        assert _eventually(lambda: rig.elastic.position > 0)
    finally:
        rig.controller.stop()
    assert not any(thread.name == "controller" for thread in threading.enumerate())
