"""The user's wishes in the control law: pins and worst positions."""

from flexquant.server.controller.parameters import GIB, MIB
from flexquant.server.controller.sample import Move
from flexquant.server.controller.state import Pin, State, WorstPosition
from flexquant.server.simulation.loads import square
from flexquant.server.simulation.plant import Plant
from support.fed_law import PLENTY, RESERVES, decide, hold, law_with, sample_of


def test_a_pin_holds_when_memory_is_low_or_plentiful() -> None:
    state = State(pin=Pin(30, since=0.0, until=None))
    for available in (RESERVES.critical, RESERVES.low - MIB, PLENTY):
        assert hold(law_with(), state, sample_of(available, 30), 0.0, 100.0)[1] == []


def test_a_pin_moves_at_once_in_either_direction() -> None:
    for pin in (0, 60):
        _, moves = decide(law_with(), State(pin=Pin(pin, 0.0, None)), sample_of(PLENTY, 30), 0.0)
        assert moves == [Move(pin, urgent=False)]


def test_a_pin_ends_in_time_and_may_begin_later() -> None:
    law = law_with()
    pin = Pin(10, since=5.0, until=8.0)
    assert [law.pinned(State(pin=pin), now) for now in (4.9, 5.0, 7.9, 8.0)] == [None, 10, 10, None]
    state, _ = decide(law, State(pin=pin), sample_of(PLENTY, 10), 8.0)
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
    state, moves = decide(law_with(), State(pin=Pin(0, 0.0, None)), sample_of(available, 30), 0.0)
    assert moves == [Move(28, urgent=False)]  # two steps of 34 MiB fit into 100 MiB
    assert state.override


def test_a_worst_position_pulls_the_model_back_even_when_memory_is_critical() -> None:
    state = State(worst=WorstPosition(5, None))
    _, moves = decide(law_with(), state, sample_of(0, 30), 0.0)
    assert moves == [Move(5, urgent=False)]
    assert decide(law_with(), state, sample_of(0, 5), 0.0)[1] == []


def test_a_worst_position_ends_in_time() -> None:
    state = State(worst=WorstPosition(5, until=10.0))
    assert decide(law_with(), state, sample_of(0, 5), 9.9)[1] == []
    assert decide(law_with(), state, sample_of(0, 5), 10.0)[1] != []
