"""Cool-downs and the bound on changes of direction."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.patience import allow_turns, cool_down, count_turn, may_turn
from flexquant.server.controller.state import State

PARAMETERS = Parameters(jitter=0.0)


@given(st.lists(st.tuples(st.floats(0, 2000), st.booleans()), max_size=200))
def test_turns_are_bounded_whatever_is_asked(wishes: list[tuple[float, bool]]) -> None:
    """Down is always allowed; up only when the way back is allowed too."""
    state, now, turns, direction = allow_turns(State(), 0.0, PARAMETERS), 0.0, 0, None
    for passes, down in wishes:
        now += passes
        state = allow_turns(state, now, PARAMETERS)
        if not may_turn(state, down=down):
            assert not down
            continue
        turns += direction is not None and direction != down
        direction = down
        state = count_turn(state, down=down)
        assert turns <= PARAMETERS.turns + now / PARAMETERS.turn_s


def test_a_first_growth_costs_nothing_and_further_ones_neither() -> None:
    state = replace(allow_turns(State(), 0.0, PARAMETERS), turns=0.0)
    assert may_turn(state, down=False)
    state = count_turn(state, down=False)
    assert may_turn(count_turn(state, down=False), down=False)


def test_after_a_shrink_growth_needs_its_own_turn_and_the_way_back() -> None:
    for turns, allowed in ((1.9, False), (2.0, True)):
        assert may_turn(State(turns=turns, down=True), down=False) == allowed


def test_only_shrinks_soon_after_a_growth_double_the_cool_down() -> None:
    for grown, seconds in ((0.0, 60), (None, 30)):
        state = cool_down(State(regrettable=grown), 59.0, PARAMETERS, shrunk=True)
        assert state.cooldown_until == 59.0 + seconds
    state = cool_down(State(regrettable=0.0), 61.0, PARAMETERS, shrunk=True)
    assert state.cooldown_until == 91.0
    assert cool_down(State(regrettable=0.0), 10.0, PARAMETERS).cooldown_until == 40.0
