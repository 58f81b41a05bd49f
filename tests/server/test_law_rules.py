"""The rules of the control law, one by one."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, MIB, Parameters
from flexquant.server.controller.sample import MemoryReading, Move
from flexquant.server.controller.state import State, WorstPosition
from support.fed_law import FOOTPRINTS, PLENTY, RESERVES, TOTAL, decide, hold, law_with, sample_of


@settings(deadline=None)
@given(available=st.integers(-4 * GIB, TOTAL), position=st.integers(0, 60), worst=st.integers(0, 60))
def test_a_shrink_takes_the_fewest_steps_that_suffice(available: int, position: int, worst: int) -> None:
    position = min(position, worst)
    law = law_with()
    _, moves = decide(law, State(worst=WorstPosition(worst, None)), sample_of(available, position), 0.0)
    reserves = law.parameters.reserves(TOTAL, shared=True, largest_step=FOOTPRINTS[0] - FOOTPRINTS[1])
    need = float(reserves.target - available)
    if available < reserves.critical:
        need = max(need, 0.1 * (FOOTPRINTS[0] - FOOTPRINTS[-1]))
    if available >= reserves.low or position == worst:
        assert moves == []
        return
    (move,) = moves
    freed = [FOOTPRINTS[position] - FOOTPRINTS[k] for k in range(move.position + 1)]
    assert freed[move.position] >= need or move.position == worst
    assert freed[move.position - 1] < need
    assert move.urgent == (available < reserves.critical)


def test_nothing_happens_between_trigger_and_growth_gate() -> None:
    for available in (RESERVES.low, RESERVES.target, RESERVES.high):
        assert hold(law_with(), State(), sample_of(available, 30), 0.0, 100.0)[1] == []


def test_growth_waits_for_a_full_window() -> None:
    law = law_with()
    state, moves = hold(law, State(), sample_of(PLENTY, 30), 0.0, 30.0)
    assert moves == []
    assert decide(law, state, sample_of(PLENTY, 30), 30.0)[1] != []


def test_growth_goes_by_the_least_of_the_window() -> None:
    law = law_with()
    state, _ = hold(law, State(), sample_of(PLENTY, 30), 0.0, 10.0)
    state, _ = decide(law, state, sample_of(RESERVES.high, 30), 10.0)
    state, _ = hold(law, state, sample_of(PLENTY, 30), 10.25, 29.75)
    assert decide(law, state, sample_of(PLENTY, 30), 40.0)[1] == []
    state, moves = hold(law, state, sample_of(PLENTY, 30), 40.25, 0.5)
    assert [move.position for move in moves][:1] == [27]  # 128 MiB hold three steps of 34 MiB


def test_batches_of_growth_keep_their_distance() -> None:
    law = law_with()
    state, moves = hold(law, State(), sample_of(PLENTY, 30), 0.0, 30.5)
    at = state.last_grow
    assert at is not None
    assert moves == [Move(27, urgent=False)]
    _, moves = decide(law, state, sample_of(PLENTY, 27), at + 1.75)
    assert moves == []
    _, moves = decide(law, state, sample_of(PLENTY, 27), at + 2.0)
    assert moves == [Move(24, urgent=False)]


def test_a_step_larger_than_a_batch_goes_alone() -> None:
    footprints = (4 * GIB, 3 * GIB, 2 * GIB)
    law = Law(Parameters(), footprints)
    state, moves = State(), list[Move]()
    for index in range(122):
        sample = replace(sample_of(PLENTY, 2), elastic_bytes=footprints[2])
        state, moves = decide(law, state, sample, index * 0.25)
        if moves:
            break
    assert moves == [Move(1, urgent=False)]


def test_growth_does_not_begin_while_a_move_is_under_way_or_a_source_is_silent() -> None:
    law = law_with()
    for changes in ({"moving": True}, {"failed": ("budget",)}):
        _, moves = hold(law, State(), sample_of(PLENTY, 30, **changes), 0.0, 100.0)
        assert moves == []


def test_a_fall_is_seen_ahead() -> None:
    """At 1 GiB/s and 0.5 s of reaction the trigger is 512 MiB early."""
    law = law_with()
    fall = GIB
    state, moves = State(), list[Move]()
    available = 0
    for index in range(200):
        available = 4 * GIB - round(fall * index * 0.25)
        state, moves = decide(law, state, sample_of(available), index * 0.25)
        if moves:
            break
    assert RESERVES.low < available < RESERVES.low + fall // 2
    freed = FOOTPRINTS[0] - FOOTPRINTS[moves[0].position]
    assert freed >= RESERVES.target - (available - fall / 2)


def test_a_second_shrink_waits_until_the_first_was_felt_unless_memory_is_critical() -> None:
    law = law_with()
    state, moves = decide(law, State(), sample_of(RESERVES.low - MIB), 0.0)
    position = moves[0].position
    low = sample_of(RESERVES.low - MIB, position)
    assert decide(law, state, low, 0.5)[1] == []
    assert decide(law, state, low, 1.0)[1] != []
    assert decide(law, state, sample_of(RESERVES.critical - MIB, position), 0.5)[1] != []


def test_what_is_already_ordered_counts() -> None:
    law = law_with()
    available = RESERVES.low - MIB
    state, moves = decide(law, State(), sample_of(available), 0.0)
    under_way = sample_of(available, target=moves[0].position, moving=True)
    assert decide(law, state, under_way, 2.0)[1] == []


def test_a_move_under_way_becomes_urgent_once_when_memory_is_critical() -> None:
    law = law_with()
    under_way = sample_of(RESERVES.critical - MIB, target=40, moving=True)  # enough, once it is done
    state, moves = decide(law, State(), under_way, 0.0)
    assert moves == [Move(40, urgent=True)]
    assert decide(law, state, under_way, 0.25)[1] == []


def test_the_tightest_source_decides() -> None:
    law = law_with()
    host = MemoryReading("host", PLENTY, TOTAL)
    budget = MemoryReading("budget", -40 * MIB, 2 * GIB, shared=False)
    state, moves = decide(law, State(), sample_of(0, memory=(host, budget)), 0.0)
    assert [move.position for move in moves] == [6]  # ten per cent of the range, for it is critical
    assert state.last_decision is not None
    assert state.last_decision.why.startswith("budget")
    spare = MemoryReading("budget", 100 * MIB, 2 * GIB, shared=False)
    _, moves = hold(law, State(), sample_of(0, 30, memory=(host, spare)), 0.0, 30.5)
    assert moves == [Move(29, urgent=False)]  # 100 MiB, less the largest step kept free


def test_a_budget_is_used_up_to_the_last_byte() -> None:
    full = sample_of(0, 30, memory=(MemoryReading("budget", 0, 2 * GIB, shared=False),))
    assert hold(law_with(), State(), full, 0.0, 100.0)[1] == []


def test_no_source_means_hold_and_say_so() -> None:
    law = law_with()
    state, moves = hold(law, State(), sample_of(PLENTY, 30), 0.0, 20.0)
    silent = sample_of(0, 30, memory=(), failed=("host",))
    state, moves = hold(law, state, silent, 20.0, 100.0)
    assert moves == []
    assert state.phase == "blind"
    assert state.last_decision is not None
    assert state.last_decision.what == "blind"


def test_sight_returns_with_three_samples_and_growth_with_a_new_window() -> None:
    law = law_with()
    silent = sample_of(0, 30, memory=(), failed=("host",))
    state, _ = hold(law, State(), silent, 0.0, 3.0)
    low = sample_of(RESERVES.low - MIB, 30)
    phases = []
    for index in range(3):
        state, moves = decide(law, state, low, 3.0 + index * 0.25)
        phases.append((state.phase, bool(moves)))
    assert phases == [("blind", False), ("blind", False), ("shrink", True)]
    state, _ = hold(law, State(), silent, 0.0, 3.0)
    _, moves = hold(law, state, sample_of(PLENTY, 30), 3.0, 30.0)
    assert moves == []


def test_critical_memory_ends_blindness_at_once() -> None:
    law = law_with()
    silent = sample_of(0, 30, memory=(), failed=("host",))
    state, _ = hold(law, State(), silent, 0.0, 3.0)
    assert decide(law, state, sample_of(RESERVES.critical - 1, 30), 3.0)[1] != []


def test_a_gap_in_time_starts_the_window_again() -> None:
    law = law_with()
    state, _ = hold(law, State(), sample_of(PLENTY, 30), 0.0, 20.0)
    assert decide(law, state, sample_of(PLENTY, 30), 5000.0)[1] == []


def test_a_failed_move_is_not_repeated_at_once() -> None:
    law = law_with()
    low = sample_of(RESERVES.low - MIB)
    state, _ = decide(law, State(), low, 0.0)
    state, moves = decide(law, state, replace(low, move_failed=True), 1.5)
    assert moves == []
    assert decide(law, state, low, 2.0)[1] == []
    assert decide(law, state, low, 2.5)[1] != []
    state, moves = hold(law, state, sample_of(PLENTY, 30), 2.0, 29.0)
    assert moves == []  # no growth in the cool-down


def test_a_regret_doubles_the_cool_down_and_calm_halves_it() -> None:
    law = law_with(jitter=0.0)
    lengths, now, state = [], 0.0, State()
    for _ in range(7):
        state = replace(state, regrettable=now)
        now += 1.0
        state, moves = decide(law, state, sample_of(RESERVES.low - MIB), now)
        assert moves
        assert state.cooldown_until is not None
        lengths.append(state.cooldown_until - now)
    assert lengths == [60, 120, 240, 480, 600, 600, 600]
    for halvings in range(1, 4):
        state, _ = decide(law, state, sample_of(PLENTY), now + 600.0 * halvings)
        assert state.regrets == 5 - halvings


def test_a_cool_down_of_nothing_stays_nothing() -> None:
    law, state = law_with(cooldown_s=0.0), State()
    for now in range(1100):
        state, moves = decide(law, replace(state, regrettable=float(now)), sample_of(0), float(now))
        assert moves
        assert state.cooldown_until == now


def test_a_cool_down_is_stretched_by_a_seeded_draw() -> None:
    ends = set()
    for seed in range(8):
        state, _ = decide(law_with(seed=seed), State(), sample_of(RESERVES.low - MIB), 0.0)
        assert state.cooldown_until is not None
        assert 30.0 <= state.cooldown_until <= 36.0
        ends.add(state.cooldown_until)
    assert len(ends) == 8


def test_a_model_with_one_position_stays_there() -> None:
    law = Law(Parameters(), (GIB,))
    for available in (0, PLENTY):
        sample = replace(sample_of(available), elastic_bytes=GIB)
        assert hold(law, State(), sample, 0.0, 40.0)[1] == []
