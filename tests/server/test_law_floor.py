"""The control law where nothing can be given back any more: the floor."""

from dataclasses import replace

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import MIB
from flexquant.server.controller.sample import DropReusable, Order, Sample, Trim
from flexquant.server.controller.state import State, WorstPosition
from support.fed_law import FOOTPRINTS, RESERVES, law_with, sample_of

LAST = len(FOOTPRINTS) - 1
BAD = sample_of(RESERVES.critical - MIB, LAST)


def _feed(law: Law, state: State, sample: Sample, start: float, seconds: float) -> tuple[State, list[Order]]:
    orders: list[Order] = []
    for index in range(round(seconds / 0.25)):
        state, given = law.decide(state, sample, start + index * 0.25)
        orders += given
    return state, orders


def test_critical_at_the_smallest_position_for_a_while_refuses_new_work() -> None:
    law = law_with()
    state, _ = _feed(law, State(), BAD, 0.0, 5.0)
    assert not state.refusing
    state, orders = law.decide(state, BAD, 5.0)
    assert (state.refusing, state.phase) == (True, "floor")
    assert orders == (Trim(),)
    assert state.last_decision is not None
    assert state.last_decision.what == "floor"
    assert law.admission(state, BAD, 5.0).refusal == state.last_refusal
    assert state.last_refusal is not None


def test_caches_go_before_work_is_refused() -> None:
    law = law_with()
    state, orders = law.decide(State(), replace(BAD, kv_bytes=9 * MIB, reusable_bytes=9 * MIB), 0.0)
    assert orders == (DropReusable(),)
    assert state.last_decision is not None
    assert state.last_decision.what == "caches"


def test_while_something_can_be_given_back_work_is_taken() -> None:
    law = law_with()
    state, orders = _feed(law, State(), sample_of(RESERVES.critical - MIB, LAST - 1), 0.0, 20.0)
    assert orders
    assert not state.refusing


def test_a_limit_of_the_user_makes_an_earlier_floor() -> None:
    law = law_with()
    limited = State(worst=WorstPosition(10, None))
    state, _ = _feed(law, limited, sample_of(RESERVES.critical - MIB, 10), 0.0, 5.5)
    assert state.refusing


def test_a_moment_of_relief_starts_the_wait_again() -> None:
    law = law_with()
    state, _ = _feed(law, State(), BAD, 0.0, 4.0)
    state, _ = law.decide(state, sample_of(RESERVES.low, LAST), 4.0)
    state, _ = _feed(law, state, BAD, 4.25, 4.5)
    assert not state.refusing


def test_the_floor_is_left_when_the_target_reserve_has_been_free_for_a_while() -> None:
    law = law_with()
    state, _ = _feed(law, State(), BAD, 0.0, 6.0)
    state, _ = _feed(law, state, sample_of(RESERVES.target - 1, LAST), 6.0, 30.0)
    assert state.phase == "floor"
    state, orders = _feed(law, state, sample_of(RESERVES.target, LAST), 36.0, 10.0)
    assert (state.phase, orders) == ("floor", [])
    state, _ = law.decide(state, sample_of(RESERVES.target, LAST), 46.0)
    assert not state.refusing
    assert state.last_decision is not None
    assert state.last_decision.what == "resume"
    assert law.admission(state, sample_of(RESERVES.target, LAST), 46.0).refusal is None


def test_nothing_grows_in_the_floor() -> None:
    law = law_with(floor_leave_s=1000.0)
    state, _ = _feed(law, State(), BAD, 0.0, 6.0)
    state, orders = _feed(law, state, sample_of(RESERVES.high * 4, LAST), 6.0, 200.0)
    assert orders == []
    assert state.phase == "floor"
