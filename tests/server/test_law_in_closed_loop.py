"""The control law in closed loop with a simulated machine: invariants, whatever the other programs do."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.controller.parameters import GIB, MIB
from flexquant.server.controller.state import Pin, State, WorstPosition
from flexquant.server.simulation.loads import (
    Load,
    constant,
    hog,
    ramp,
    random_walk,
    sawtooth,
    sine,
    square,
    step,
)
from flexquant.server.simulation.plant import Plant, Tick, even_footprints
from flexquant.server.simulation.score import regrets, reversals


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
    plant.footprints = even_footprints()
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
