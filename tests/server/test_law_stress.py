"""The control law and stress: stalls, limits that are hit, swap, levels."""

import pytest

from flexquant.server.controller.parameters import GIB
from flexquant.server.controller.sample import Move, StressReading
from flexquant.server.controller.state import State
from support.fed_law import FOOTPRINTS, PLENTY, RESERVES, TOTAL, decide, hold, law_with, sample_of

RANGE = FOOTPRINTS[0] - FOOTPRINTS[-1]
ENOUGH = RESERVES.high + GIB
"""No reserve is touched, and yet not half of the machine is free."""


def _stall(some: float, full: float = 0.0, *, seconds: float, available: int = ENOUGH) -> tuple[State, list[Move]]:
    """Run while tasks wait for these shares of the time."""
    law, state, moves = law_with(), State(), list[Move]()
    for index in range(round(seconds / 0.25) + 1):
        now = index * 0.25
        stress = StressReading("psi", some_us=round(some * now * 1e6), full_us=round(full * now * 1e6))
        position = moves[-1].position if moves else 0
        state, ordered = decide(law, state, sample_of(available, position, stress=(stress,)), now)
        moves += ordered
    return state, moves


def test_stalls_shrink_the_model_although_bytes_look_fine() -> None:
    state, moves = _stall(some=0.08, seconds=1.0)
    (move,) = moves
    assert FOOTPRINTS[0] - FOOTPRINTS[move.position] >= 0.05 * RANGE
    assert FOOTPRINTS[0] - FOOTPRINTS[move.position - 1] < 0.05 * RANGE
    assert not move.urgent
    assert state.last_decision is not None
    assert state.last_decision.why == "psi: tasks wait 8% of the time for memory"


def test_fewer_stalls_do_nothing() -> None:
    assert _stall(some=0.06, full=0.06, seconds=30.0)[1] == []


def test_stalls_of_all_tasks_are_critical() -> None:
    _, moves = _stall(some=0.2, full=0.11, seconds=1.0)
    assert moves[-1].urgent
    assert FOOTPRINTS[0] - FOOTPRINTS[moves[-1].position] >= 0.1 * RANGE


def test_a_release_for_stalls_is_felt_before_the_next() -> None:
    times = len(_stall(some=0.2, full=0.2, seconds=5.0)[1])
    assert 4 <= times <= 6


def test_stalls_on_a_machine_with_plenty_are_somebody_elses_limit() -> None:
    assert _stall(some=0.9, full=0.9, seconds=10.0, available=TOTAL // 2)[1] == []
    assert _stall(some=0.9, full=0.9, seconds=10.0, available=TOTAL // 2 - 1)[1] != []


def test_stalls_after_an_own_growth_are_ignored() -> None:
    law = law_with()
    state = State()
    moves = list[Move]()
    for index in range(17):
        now = index * 0.25
        stress = (StressReading("psi", some_us=round(0.2 * now * 1e6)),)
        growing = now <= 1.0
        sample = sample_of(ENOUGH, 30, stress=stress, target=29 if growing else 30, moving=growing)
        state, ordered = decide(law, state, sample, now)
        moves += ordered
        assert bool(moves) == (now >= 3.0), now


def test_averages_of_waiting_veto_growth_and_high_ones_are_critical() -> None:
    law = law_with()
    for stress in (StressReading("psi", some_avg10=0.2), StressReading("psi", some_avg60=0.1)):
        assert hold(law, State(), sample_of(ENOUGH, 30, stress=(stress,)), 0.0, 100.0)[1] == []
    calm = StressReading("psi", some_avg10=0.0, some_avg60=0.05)
    assert hold(law, State(), sample_of(ENOUGH, 30, stress=(calm,)), 0.0, 100.0)[1] != []
    _, moves = decide(law, State(), sample_of(ENOUGH, 0, stress=(StressReading("psi", some_avg10=12.0),)), 0.0)
    assert [move.urgent for move in moves] == [True]


def test_swapping_vetoes_growth_for_half_a_minute() -> None:
    law, state = law_with(), State()
    for index in range(400):
        now = index * 0.25
        stress = (StressReading("host", swapped_out=0 if now < 40 else 4096),)
        state, moves = decide(law, state, sample_of(PLENTY, 30, stress=stress), now)
        grew = bool(moves)
        if 40 <= now < 70:
            assert not grew, now
        if grew and now >= 70:
            break
    else:
        pytest.fail("never grew again")


def test_a_limit_that_was_hit_shrinks_once_where_memory_is_tight() -> None:
    law = law_with()
    for available, shrinks in ((RESERVES.high - 1, True), (RESERVES.high, False)):
        state, moves = State(), list[Move]()
        for index in range(20):
            stress = (StressReading("cgroup /a", events=7 if index < 8 else 8),)
            state, ordered = decide(law, state, sample_of(available, 0, stress=stress), index * 0.25)
            moves += ordered
        assert len(moves) == shrinks


def test_a_kill_is_critical_and_a_counter_that_starts_again_is_not() -> None:
    law = law_with()
    killed = [sample_of(ENOUGH, 0, stress=(StressReading("cgroup /a", oom_kills=n),)) for n in (3, 4, 0, 0)]
    state, orders = State(), list[list[Move]]()
    for index, sample in enumerate(killed):
        state, moves = decide(law, state, sample, float(index * 2))
        orders.append(moves)
    assert [bool(moves) for moves in orders] == [False, True, False, False]
    assert orders[1][0].urgent


@pytest.mark.parametrize(("level", "grows", "shrinks"), [("normal", True, False), ("warn", False, False)])
def test_the_systems_level(level: str, *, grows: bool, shrinks: bool) -> None:
    stress = (StressReading("macos", level=level),)  # type: ignore[arg-type]  # parametrized
    assert bool(hold(law_with(), State(), sample_of(PLENTY, 30, stress=stress), 0.0, 60.0)[1]) == grows
    assert bool(decide(law_with(), State(), sample_of(PLENTY, 30, stress=stress), 0.0)[1]) == shrinks


def test_the_systems_critical_level_is_critical_whatever_bytes_say() -> None:
    stress = (StressReading("macos", level="critical"),)
    state, moves = decide(law_with(), State(), sample_of(PLENTY, 0, stress=stress), 0.0)
    assert [move.urgent for move in moves] == [True]
    assert state.phase == "critical"


def test_no_rate_spans_a_gap() -> None:
    law = law_with()
    reading = StressReading("psi", some_us=0)
    state, _ = decide(law, State(), sample_of(ENOUGH, stress=(reading,)), 0.0)
    state, _ = decide(law, state, sample_of(0, memory=(), failed=("host",)), 0.25)
    state, _ = decide(law, state, sample_of(0, memory=(), failed=("host",)), 3.0)
    later = StressReading("psi", some_us=3_000_000)
    assert decide(law, state, sample_of(ENOUGH, stress=(later,)), 3.25)[1] == []
