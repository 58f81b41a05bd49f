"""The control law in closed loop with a simulated machine, and its rules one by one."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, MIB, Parameters
from flexquant.server.controller.sample import MemoryReading, Move, Sample
from flexquant.server.controller.state import Pin, State, WorstPosition
from support.plant import (
    Load,
    Plant,
    Tick,
    constant,
    even_footprints,
    hog,
    ramp,
    random_walk,
    regrets,
    reversals,
    sawtooth,
    sine,
    square,
    step,
)

TOTAL = 16 * GIB
FOOTPRINTS = even_footprints()


def _gib(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low * GIB, high * GIB, allow_nan=False)


LOADS: st.SearchStrategy[Load] = st.one_of(
    st.builds(step, _gib(0, 15), _gib(0, 15), st.floats(0, 100)),
    st.builds(ramp, _gib(0, 15), _gib(0, 15), st.floats(0, 60), st.floats(1, 120)),
    st.builds(hog, _gib(5, 12), _gib(0.5, 6), _gib(0.1, 4), st.floats(0, 60), st.floats(1, 120)),
    st.builds(sawtooth, _gib(8, 13), _gib(0.1, 5), st.floats(5, 300)),
    st.builds(sine, _gib(8, 13), _gib(0.1, 4), st.floats(5, 300)),
    st.builds(square, _gib(8, 13), _gib(0.1, 5), st.floats(5, 300)),
    st.builds(random_walk, _gib(8, 13), _gib(0.001, 0.5), st.integers(0, 1000)),
)

PLANTS = st.builds(
    Plant,
    load=LOADS,
    footprints=st.builds(even_footprints, st.integers(1, 120)),
    latency=st.integers(1, 4),
    lost=st.sampled_from([0.0, 0.05, 0.5]),
    noise=st.sampled_from([0, 20 * MIB]),
    seed=st.integers(0, 1000),
)

NAMED_LOADS: dict[str, Load] = {
    "step": step(10 * GIB, 13.5 * GIB, at=60),
    "ramp": ramp(9 * GIB, 14 * GIB, start=60, seconds=300),
    "hog": hog(10 * GIB, 4 * GIB, rate=2 * GIB, start=60, stay=30),
    "sawtooth 20 s": sawtooth(10.5 * GIB, 2.5 * GIB, 20),
    "sawtooth 90 s": sawtooth(10.5 * GIB, 2.5 * GIB, 90),
    "square 100 s": square(10.5 * GIB, 2.5 * GIB, 100),
    "sine": sine(11.5 * GIB, 1.5 * GIB, 120),
    "walk": random_walk(11.5 * GIB, 100 * MIB, seed=1),
}


def _orders(ticks: list[Tick]) -> list[tuple[Tick, Tick]]:
    """Pairs (tick before, tick with an order that changed the target)."""
    return [(before, now) for before, now in pairwise(ticks) if now.target != before.target]


# --- invariants, whatever the other programs do ---------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(plant=PLANTS)
def test_every_position_is_one_of_the_sequence(plant: Plant) -> None:
    last = len(plant.footprints) - 1
    assert all(0 <= tick.target <= last for tick in plant.run(200))


@settings(deadline=None, max_examples=30)
@given(level=_gib(0, 17), latency=st.integers(1, 4), start=st.integers(0, 60))
def test_constant_load_settles(level: float, latency: int, start: int) -> None:
    ticks = Plant(constant(level), latency=latency, start=start).run(300)
    settled = [tick for tick in ticks if tick.at > 200]  # 30 s of window, a cool-down, 16 batches
    assert len({tick.target for tick in settled}) == 1
    assert not any(tick.moves for tick in settled)


@settings(deadline=None, max_examples=40)
@given(plant=PLANTS)
def test_growth_leaves_the_high_reserve(plant: Plant) -> None:
    for before, now in _orders(plant.run(300)):
        if now.target < before.target:
            taken = plant.footprints[now.target] - plant.footprints[before.target]
            assert now.available - taken >= plant.reserves.high - plant.noise


@settings(deadline=None, max_examples=40)
@given(plant=PLANTS)
def test_no_growth_within_the_cool_down_of_a_shrink(plant: Plant) -> None:
    shrunk: float | None = None
    for before, now in _orders(plant.run(400)):
        if now.target > before.target:
            shrunk = now.at
        elif shrunk is not None:
            assert now.at - shrunk >= plant.parameters.cooldown_s


@settings(deadline=None, max_examples=15)
@given(plant=PLANTS)
def test_regretted_growths_are_bounded(plant: Plant) -> None:
    seconds = 1800.0
    assert regrets(plant.run(seconds), plant.parameters.regret_s) <= 5 + seconds / 600


@settings(deadline=None, max_examples=40)
@given(plant=PLANTS)
def test_memory_is_not_critical_for_longer_than_a_reaction(plant: Plant) -> None:
    plant.lost = plant.noise = 0
    plant.parameters = replace(plant.parameters, reaction_s=(plant.latency + 1) * plant.parameters.tick_s)
    last, run = len(plant.footprints) - 1, 0
    for tick in plant.run(300):
        run = run + 1 if tick.available < plant.reserves.critical and tick.position < last else 0
        assert run <= 2 * plant.latency + 1


@settings(deadline=None, max_examples=20)
@given(plant=PLANTS)
def test_same_samples_and_seed_give_the_same_decisions(plant: Plant) -> None:
    assert plant.run(200) == plant.run(200)


@settings(deadline=None, max_examples=40)
@given(plant=PLANTS, worst=st.integers(0, 60), pinned=st.none() | st.integers(0, 60))
def test_worst_position_is_never_crossed(plant: Plant, worst: int, pinned: int | None) -> None:
    plant.footprints = FOOTPRINTS
    pin = None if pinned is None else Pin(pinned, since=0.0, until=None)
    ticks = plant.run(200, State(worst=WorstPosition(worst, None), pin=pin))
    assert max(tick.target for tick in ticks) <= worst


@pytest.mark.parametrize("name", NAMED_LOADS)
@pytest.mark.parametrize("noise", [0, 20 * MIB])
def test_named_loads_do_not_make_the_model_flap(name: str, noise: int) -> None:
    seconds = 900.0
    ticks = Plant(NAMED_LOADS[name], noise=noise).run(seconds)
    assert regrets(ticks, 60) <= 5 + seconds / 600
    assert reversals(ticks) <= 2 * (5 + seconds / 600)
    assert any(tick.target != 0 for tick in ticks), "the load did not matter"


# --- single rules ----------------------------------------------------------------------------------------------


def _sample(available: int, position: int = 0, **changes: object) -> Sample:
    base = Sample(
        memory=(MemoryReading("host", available, TOTAL),),
        failed=(),
        position=position,
        target=position,
        moving=False,
        elastic_bytes=FOOTPRINTS[position],
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # field names are checked at run time


def _law(**changes: object) -> Law:
    return Law(replace(Parameters(), **changes), FOOTPRINTS)  # type: ignore[arg-type]  # as above


def _decide(law: Law, state: State, sample: Sample, now: float) -> tuple[State, list[Move]]:
    state, moves = law.decide(state, sample, now)
    return state, list(moves)


def _hold(law: Law, state: State, sample: Sample, start: float, seconds: float) -> tuple[State, list[Move]]:
    """Feed the same sample for `seconds`; the orders are not carried out."""
    orders: list[Move] = []
    for index in range(round(seconds / 0.25)):
        state, moves = law.decide(state, sample, start + index * 0.25)
        orders += moves
    return state, orders


@settings(deadline=None)
@given(available=st.integers(-4 * GIB, TOTAL), position=st.integers(0, 60), worst=st.integers(0, 60))
def test_a_shrink_takes_the_fewest_steps_that_suffice(available: int, position: int, worst: int) -> None:
    position = min(position, worst)
    law = _law()
    _, moves = _decide(law, State(worst=WorstPosition(worst, None)), _sample(available, position), 0.0)
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


RESERVES = Parameters().reserves(TOTAL, shared=True, largest_step=FOOTPRINTS[0] - FOOTPRINTS[1])
PLENTY = 12 * GIB


def test_nothing_happens_between_trigger_and_growth_gate() -> None:
    for available in (RESERVES.low, RESERVES.target, RESERVES.high):
        assert _hold(_law(), State(), _sample(available, 30), 0.0, 100.0)[1] == []


def test_growth_waits_for_a_full_window() -> None:
    law = _law()
    state, moves = _hold(law, State(), _sample(PLENTY, 30), 0.0, 30.0)
    assert moves == []
    assert _decide(law, state, _sample(PLENTY, 30), 30.0)[1] != []


def test_growth_goes_by_the_least_of_the_window() -> None:
    law = _law()
    state, _ = _hold(law, State(), _sample(PLENTY, 30), 0.0, 10.0)
    state, _ = _decide(law, state, _sample(RESERVES.high, 30), 10.0)
    state, _ = _hold(law, state, _sample(PLENTY, 30), 10.25, 29.75)
    assert _decide(law, state, _sample(PLENTY, 30), 40.0)[1] == []
    state, moves = _hold(law, state, _sample(PLENTY, 30), 40.25, 0.5)
    assert [move.position for move in moves][:1] == [27]  # 128 MiB hold three steps of 34 MiB


def test_batches_of_growth_keep_their_distance() -> None:
    law = _law()
    state, moves = _hold(law, State(), _sample(PLENTY, 30), 0.0, 30.5)
    at = state.last_grow
    assert at is not None
    assert moves == [Move(27, urgent=False)]
    _, moves = _decide(law, state, _sample(PLENTY, 27), at + 1.75)
    assert moves == []
    _, moves = _decide(law, state, _sample(PLENTY, 27), at + 2.0)
    assert moves == [Move(24, urgent=False)]


def test_a_step_larger_than_a_batch_goes_alone() -> None:
    footprints = (4 * GIB, 3 * GIB, 2 * GIB)
    law = Law(Parameters(), footprints)
    state, moves = State(), list[Move]()
    for index in range(122):
        sample = replace(_sample(PLENTY, 2), elastic_bytes=footprints[2])
        state, moves = _decide(law, state, sample, index * 0.25)
        if moves:
            break
    assert moves == [Move(1, urgent=False)]


def test_growth_does_not_begin_while_a_move_is_under_way_or_a_source_is_silent() -> None:
    law = _law()
    for changes in ({"moving": True}, {"failed": ("budget",)}):
        _, moves = _hold(law, State(), _sample(PLENTY, 30, **changes), 0.0, 100.0)
        assert moves == []


def test_a_fall_is_seen_ahead() -> None:
    """At 1 GiB/s and 0.5 s of reaction the trigger is 512 MiB early."""
    law = _law()
    fall = GIB
    state, moves = State(), list[Move]()
    available = 0
    for index in range(200):
        available = 4 * GIB - round(fall * index * 0.25)
        state, moves = _decide(law, state, _sample(available), index * 0.25)
        if moves:
            break
    assert RESERVES.low < available < RESERVES.low + fall // 2
    freed = FOOTPRINTS[0] - FOOTPRINTS[moves[0].position]
    assert freed >= RESERVES.target - (available - fall / 2)


def test_a_second_shrink_waits_until_the_first_was_felt_unless_memory_is_critical() -> None:
    law = _law()
    state, moves = _decide(law, State(), _sample(RESERVES.low - MIB), 0.0)
    position = moves[0].position
    low = _sample(RESERVES.low - MIB, position)
    assert _decide(law, state, low, 0.5)[1] == []
    assert _decide(law, state, low, 1.0)[1] != []
    assert _decide(law, state, _sample(RESERVES.critical - MIB, position), 0.5)[1] != []


def test_what_is_already_ordered_counts() -> None:
    law = _law()
    available = RESERVES.low - MIB
    state, moves = _decide(law, State(), _sample(available), 0.0)
    under_way = _sample(available, target=moves[0].position, moving=True)
    assert _decide(law, state, under_way, 2.0)[1] == []


def test_a_move_under_way_becomes_urgent_once_when_memory_is_critical() -> None:
    law = _law()
    under_way = _sample(RESERVES.critical - MIB, target=40, moving=True)  # enough, once it is done
    state, moves = _decide(law, State(), under_way, 0.0)
    assert moves == [Move(40, urgent=True)]
    assert _decide(law, state, under_way, 0.25)[1] == []


def test_the_tightest_source_decides() -> None:
    law = _law()
    host = MemoryReading("host", PLENTY, TOTAL)
    budget = MemoryReading("budget", -40 * MIB, 2 * GIB, shared=False)
    state, moves = _decide(law, State(), _sample(0, memory=(host, budget)), 0.0)
    assert [move.position for move in moves] == [6]  # ten per cent of the range, for it is critical
    assert state.last_decision is not None
    assert state.last_decision.why.startswith("budget")
    spare = MemoryReading("budget", 100 * MIB, 2 * GIB, shared=False)
    _, moves = _hold(law, State(), _sample(0, 30, memory=(host, spare)), 0.0, 30.5)
    assert moves == [Move(29, urgent=False)]  # 100 MiB, less the largest step kept free


def test_a_budget_is_used_up_to_the_last_byte() -> None:
    full = _sample(0, 30, memory=(MemoryReading("budget", 0, 2 * GIB, shared=False),))
    assert _hold(_law(), State(), full, 0.0, 100.0)[1] == []


def test_no_source_means_hold_and_say_so() -> None:
    law = _law()
    state, moves = _hold(law, State(), _sample(PLENTY, 30), 0.0, 20.0)
    silent = _sample(0, 30, memory=(), failed=("host",))
    state, moves = _hold(law, state, silent, 20.0, 100.0)
    assert moves == []
    assert state.phase == "blind"
    assert state.last_decision is not None
    assert state.last_decision.what == "blind"


def test_sight_returns_with_three_samples_and_growth_with_a_new_window() -> None:
    law = _law()
    silent = _sample(0, 30, memory=(), failed=("host",))
    state, _ = _hold(law, State(), silent, 0.0, 3.0)
    low = _sample(RESERVES.low - MIB, 30)
    phases = []
    for index in range(3):
        state, moves = _decide(law, state, low, 3.0 + index * 0.25)
        phases.append((state.phase, bool(moves)))
    assert phases == [("blind", False), ("blind", False), ("shrink", True)]
    state, _ = _hold(law, State(), silent, 0.0, 3.0)
    _, moves = _hold(law, state, _sample(PLENTY, 30), 3.0, 30.0)
    assert moves == []


def test_critical_memory_ends_blindness_at_once() -> None:
    law = _law()
    silent = _sample(0, 30, memory=(), failed=("host",))
    state, _ = _hold(law, State(), silent, 0.0, 3.0)
    assert _decide(law, state, _sample(RESERVES.critical - 1, 30), 3.0)[1] != []


def test_a_gap_in_time_starts_the_window_again() -> None:
    law = _law()
    state, _ = _hold(law, State(), _sample(PLENTY, 30), 0.0, 20.0)
    assert _decide(law, state, _sample(PLENTY, 30), 5000.0)[1] == []


def test_a_failed_move_is_not_repeated_at_once() -> None:
    law = _law()
    low = _sample(RESERVES.low - MIB)
    state, _ = _decide(law, State(), low, 0.0)
    state, moves = _decide(law, state, replace(low, move_failed=True), 1.5)
    assert moves == []
    assert _decide(law, state, low, 2.0)[1] == []
    assert _decide(law, state, low, 2.5)[1] != []
    state, moves = _hold(law, state, _sample(PLENTY, 30), 2.0, 29.0)
    assert moves == []  # no growth in the cool-down


def test_a_regret_doubles_the_cool_down_and_calm_halves_it() -> None:
    law = _law(jitter=0.0)
    lengths, now, state = [], 0.0, State()
    for _ in range(7):
        state = replace(state, regrettable=now)
        now += 1.0
        state, moves = _decide(law, state, _sample(RESERVES.low - MIB), now)
        assert moves
        assert state.cooldown_until is not None
        lengths.append(state.cooldown_until - now)
    assert lengths == [60, 120, 240, 480, 600, 600, 600]
    for halvings in range(1, 4):
        state, _ = _decide(law, state, _sample(PLENTY), now + 600.0 * halvings)
        assert state.regrets == 5 - halvings


def test_a_cool_down_of_nothing_stays_nothing() -> None:
    law, state = _law(cooldown_s=0.0), State()
    for now in range(1100):
        state, moves = _decide(law, replace(state, regrettable=float(now)), _sample(0), float(now))
        assert moves
        assert state.cooldown_until == now


def test_a_cool_down_is_stretched_by_a_seeded_draw() -> None:
    ends = set()
    for seed in range(8):
        state, _ = _decide(_law(seed=seed), State(), _sample(RESERVES.low - MIB), 0.0)
        assert state.cooldown_until is not None
        assert 30.0 <= state.cooldown_until <= 36.0
        ends.add(state.cooldown_until)
    assert len(ends) == 8


# --- the user's wishes -----------------------------------------------------------------------------------------


def test_a_pin_holds_when_memory_is_low_or_plentiful() -> None:
    state = State(pin=Pin(30, since=0.0, until=None))
    for available in (RESERVES.critical, RESERVES.low - MIB, PLENTY):
        assert _hold(_law(), state, _sample(available, 30), 0.0, 100.0)[1] == []


def test_a_pin_moves_at_once_in_either_direction() -> None:
    for pin in (0, 60):
        _, moves = _decide(_law(), State(pin=Pin(pin, 0.0, None)), _sample(PLENTY, 30), 0.0)
        assert moves == [Move(pin, urgent=False)]


def test_a_pin_ends_in_time_and_may_begin_later() -> None:
    law = _law()
    pin = Pin(10, since=5.0, until=8.0)
    assert [law.pinned(State(pin=pin), now) for now in (4.9, 5.0, 7.9, 8.0)] == [None, 10, 10, None]
    state, _ = _decide(law, State(pin=pin), _sample(PLENTY, 10), 8.0)
    assert state.pin is None


def test_critical_memory_overrides_a_pin_which_returns_afterwards() -> None:
    """The load takes the last memory for two minutes and leaves again."""
    pinned = State(pin=Pin(0, since=0.0, until=None))
    ticks = Plant(square(10 * GIB, 2.9 * GIB, 240)).run(470, pinned)
    overridden = [tick for tick in ticks if tick.state.override]
    assert overridden[0].at == 120.0
    assert max(tick.target for tick in ticks) > 0
    assert ticks[-1].target > 0  # 360 s to 480 s is loaded again
    returned = next(tick for tick in ticks if tick.at > 240 and not tick.state.override)
    assert returned.position == 0


def test_a_pin_that_does_not_fit_goes_as_near_as_memory_allows() -> None:
    available = RESERVES.critical + 100 * MIB
    state, moves = _decide(_law(), State(pin=Pin(0, 0.0, None)), _sample(available, 30), 0.0)
    assert moves == [Move(28, urgent=False)]  # two steps of 34 MiB fit into 100 MiB
    assert state.override


def test_a_worst_position_pulls_the_model_back_even_when_memory_is_critical() -> None:
    state = State(worst=WorstPosition(5, None))
    _, moves = _decide(_law(), state, _sample(0, 30), 0.0)
    assert moves == [Move(5, urgent=False)]
    assert _decide(_law(), state, _sample(0, 5), 0.0)[1] == []


def test_a_worst_position_ends_in_time() -> None:
    state = State(worst=WorstPosition(5, until=10.0))
    assert _decide(_law(), state, _sample(0, 5), 9.9)[1] == []
    assert _decide(_law(), state, _sample(0, 5), 10.0)[1] != []


def test_a_model_with_one_position_stays_there() -> None:
    law = Law(Parameters(), (GIB,))
    for available in (0, PLENTY):
        sample = replace(_sample(available), elastic_bytes=GIB)
        assert _hold(law, State(), sample, 0.0, 40.0)[1] == []
