"""What top knows after readings and events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.clients.top.view import DECISIONS, HISTORY, View
from support import told


def view_of(*counts: tuple[float, int]) -> View:
    """After readings at these seconds, with so many tokens generated until then."""
    view = View("http://here")
    for at, tokens in counts:
        view = view.read(told.reading(at, tokens), "m")
    return view


@pytest.mark.parametrize(
    ("counts", "rate"),
    [
        ([(0.0, 0)], None),
        ([(0.0, 0), (1.0, 20)], 20.0),
        ([(0.0, 0), (1.0, 20), (2.0, 20), (3.0, 30)], 10.0),
        ([(0.0, 0), (1.0, 90), (2.0, 90), (3.0, 90), (4.0, 90)], 0.0),  # what was three seconds ago is over
        ([(0.0, 0), (10.0, 50)], 5.0),  # a reading that took long
        ([(0.0, 5), (0.0, 6)], None),
    ],
)
def test_tokens_per_second(counts: list[tuple[float, int]], rate: float | None) -> None:
    assert view_of(*counts).tokens_per_second == rate


def test_a_daemon_that_was_restarted_has_a_history_of_its_own() -> None:
    view = view_of((0.0, 500), (1.0, 600)).lost("gone")
    assert view.problem == "gone"
    view = view.read(told.reading(2.0, 3), "m")
    assert (len(view.readings), view.problem, view.tokens_per_second) == (1, None, None)
    assert len(view.read(told.reading(3.0, 9), "another model").readings) == 1


def test_decisions_are_known_once_and_in_order() -> None:
    first, second = told.decision(1.0), told.decision(2.0, what="grow")
    last = {"what": "grow", "why": "host: 1 MiB", "when": 2.0, "from_position": 2, "to_position": 6}
    view = told.view(last_decision=last).decided([first, second]).decided([first])
    assert view.decisions == (first, second)


def test_readings_close_together_make_no_peaks() -> None:
    view = view_of((0.0, 0), (1.0, 100), (1.001, 103), (2.0, 200))
    assert view.rates() == pytest.approx([100.0, 103 / 1.001, 100.0])


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**6)), max_size=30))
def test_rates_are_never_negative_whatever_the_clock_does(counts: list[tuple[float, int]]) -> None:
    view = view_of(*counts)
    assert len(view.rates()) == max(0, len(view.readings) - 1)
    assert all(rate >= 0 for rate in view.rates())


def test_what_is_remembered_is_bounded() -> None:
    view = view_of(*((float(at), at) for at in range(HISTORY + 5)))
    assert len(view.readings) == HISTORY
    view = view.decided([told.decision(float(at)) for at in range(DECISIONS + 5)])
    assert (len(view.decisions), view.decisions[-1].when) == (DECISIONS, DECISIONS + 4)
