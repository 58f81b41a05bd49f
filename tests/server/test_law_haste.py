"""When the control law lets decoding wait for a shrink although memory is not critical yet."""

from dataclasses import replace

import pytest

from flexquant.server.controller.outlook import REACTIONS_NEEDED, reaction
from flexquant.server.controller.parameters import GIB, MIB, Parameters
from flexquant.server.controller.sample import Move
from flexquant.server.controller.state import State
from flexquant.server.simulation.loads import hog
from flexquant.server.simulation.plant import Plant
from support.fed_law import RESERVES, decide, law_with, sample_of


def fallen(rate: int, until: int) -> State:
    """The law's memory of a second before `until`, in which `rate` bytes are taken, all of them at its end."""
    law, state = law_with(), State()
    for now in (-1.0, -0.75, -0.5, -0.25):
        state, moves = decide(law, state, sample_of(until + rate), now)
        assert moves == []
    return state


@pytest.mark.parametrize(("rate", "urgent"), [(GIB // 4, False), (2 * GIB, True)])
def test_only_a_fast_fall_makes_a_shrink_urgent(rate: int, urgent: bool) -> None:
    available = RESERVES.low - MIB
    _, moves = decide(law_with(), fallen(rate, available), sample_of(available), 0.0)
    assert [move.urgent for move in moves] == [urgent]


def test_a_shrink_under_way_becomes_urgent_once_when_the_fall_gets_faster() -> None:
    law = law_with()
    available = RESERVES.low - MIB
    state, moves = decide(law, State(), sample_of(available), 0.0)
    assert [move.urgent for move in moves] == [False]
    target = moves[0].position
    state, moves = decide(law, state, sample_of(available - MIB, target=target, moving=True), 0.25)
    assert moves == []
    fast = sample_of(RESERVES.critical + 20 * MIB, target=target, moving=True)
    state, moves = decide(law, state, fast, 0.5)
    assert moves == [Move(target, urgent=True)]
    assert decide(law, state, fast, 0.75)[1] == []


def test_a_growth_under_way_is_not_sped_up() -> None:
    law = law_with()
    available = RESERVES.critical + 100 * MIB
    state = replace(fallen(2 * GIB, available), last_shrink=-0.5)
    growing = sample_of(available, 30, target=20, moving=True)
    assert decide(law, state, growing, 0.0)[1] == []


def test_what_is_looked_ahead_is_bounded() -> None:
    parameters = Parameters()
    assert reaction(State(), parameters) == parameters.reaction_s
    slow = State(reactions=(30.0,) * REACTIONS_NEEDED)
    assert reaction(slow, parameters) == parameters.reaction_limit_s
    quick = State(reactions=(0.2,) * REACTIONS_NEEDED)
    assert reaction(quick, parameters) == pytest.approx(0.2 + parameters.tick_least_s)


@pytest.mark.parametrize("paced_rate", [0.1 * GIB, 0.5 * GIB])
def test_slow_paced_shrinks_do_not_let_a_fast_program_run_memory_out(paced_rate: float) -> None:
    """A shrink beside the tokens is far too slow for 1 GiB/s; nothing is critical all the same."""
    plant = Plant(hog(base=11.5 * GIB, amount=1.6 * GIB, rate=GIB, start=5.0, stay=30.0), paced_rate=paced_rate)
    ticks = plant.run(20.0)
    assert min(tick.available for tick in ticks) > plant.reserves.critical
    assert ticks[-1].position > 0
