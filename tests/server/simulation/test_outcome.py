"""The figures of a run, and how they are shown."""

import pytest

from flexquant.server.controller.state import Phase, State
from flexquant.server.simulation.outcome import outcome_of, table
from flexquant.server.simulation.plant import Tick
from flexquant.server.simulation.text_plot import BLOCKS, text_plot

FOOTPRINTS = (400, 300, 200)


def tick(at: float, lasts: float, available: int, position: int, target: int, phase: Phase = "hold") -> Tick:
    return Tick(at, lasts, available, position, target, (), State(phase=phase))


RUN = [
    tick(0, 1, 100, 0, 0),
    tick(1, 1, 10, 0, 2, "critical"),
    tick(2, 2, 10, 2, 2, "cooldown"),
    tick(4, 4, 300, 2, 0, "grow"),
    tick(8, 2, 90, 0, 0),
]


def test_a_run_in_figures() -> None:
    outcome = outcome_of(RUN, FOOTPRINTS, critical=50)
    assert outcome.seconds == 10
    assert outcome.reversals == 1
    assert outcome.bound == pytest.approx(5 + 10 / 600)
    assert outcome.kept
    assert outcome.regrets == 0
    assert outcome.late_ticks == 4  # one look of a second; at the smallest position nothing is late
    assert outcome.least_available == 10
    assert outcome.footprint_share == pytest.approx(0.4)
    assert outcome.phases == {"hold": 3, "critical": 1, "cooldown": 2, "grow": 4}


def test_a_model_with_one_position_has_a_share_too() -> None:
    assert outcome_of([tick(0, 1, 5, 0, 0)], (100,), critical=50).footprint_share == 1
    assert outcome_of([tick(0, 0, 5, 0, 0)], FOOTPRINTS, critical=50).footprint_share == 1


def test_the_table_has_a_line_per_run_and_its_phases() -> None:
    outcome = outcome_of(RUN, FOOTPRINTS, critical=50)
    lines = table([("a", outcome), ("longer name", outcome)]).splitlines()
    assert len(lines) == 7
    assert "1 of 5.0" in lines[1]
    assert "40%" in lines[1]
    assert lines[5].endswith("grow 4, hold 3, cooldown 2, critical 1")


def test_a_plot_shows_the_least_of_each_column() -> None:
    points = [(0.0, 8.0), (1.0, 8.0), (2.0, 1.0), (2.5, 8.0), (3.0, 4.0), (4.0, 0.0)]
    lines = text_plot("title", points, top=8, width=4, height=1).splitlines()
    assert lines == ["title", "8.0 |██▁ |", "     0 s4 s"]


@pytest.mark.parametrize("points", [[(5.0, 1.0)], [(0.0, -3.0), (9.0, 99.0)], [(0.0, 0.0), (1.0, 0.0)]])
@pytest.mark.parametrize("top", [0.0, 2.0])
def test_any_values_can_be_plotted(points: list[tuple[float, float]], top: float) -> None:
    lines = text_plot("t", points, top, width=10, height=3).splitlines()
    assert len(lines) == 5
    assert {len(line) for line in lines[1:4]} == {len(lines[1])}
    assert set("".join(lines[1:4])) <= set(BLOCKS + "|.0123456789 ")
