"""Positions beside a ladder at equal footprint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.ensemble_builder.compare.against_ladder import beside_ladder, finding, worst

RUNGS = [(100, 10.0), (60, 11.0), (20, 15.0)]


def test_between_rungs_the_ladder_is_linear_in_footprint() -> None:
    found = beside_ladder([(0, 100, 10.0), (1, 80, 10.5), (2, 40, 14.3), (3, 20, 15.0)], RUNGS)
    assert [beside.ladder for beside in found] == [10.0, 10.5, 13.0, 15.0]
    assert worst(found).position == 2
    assert worst(found).ratio == pytest.approx(1.1)


def test_positions_outside_the_ladder_are_left_out() -> None:
    assert beside_ladder([(0, 120, 9.0), (1, 10, 20.0)], RUNGS) == ()
    assert beside_ladder([(0, 50, 9.0)], []) == ()
    assert finding(()) == "No position has a footprint within the ladder's."


@given(st.lists(st.integers(20, 100), min_size=1, max_size=9))
def test_a_position_on_the_ladder_is_as_good_as_it(sizes: list[int]) -> None:
    there = [(at, size, 0.0) for at, size in enumerate(sizes)]
    on = [(beside.position, beside.footprint_bytes, beside.ladder) for beside in beside_ladder(there, RUNGS)]
    found = beside_ladder(on, RUNGS)
    assert len(found) == len(sizes)
    assert all(beside.ratio == 1 for beside in found)
    assert "every position is within 1.005x" in finding(found)


def test_a_loss_is_said_with_its_place() -> None:
    said = finding(beside_ladder([(0, 100, 10.0), (7, 40, 14.3)], RUNGS))
    assert "1 of 2 positions are above 1.005x" in said
    assert "1.1000x the ladder's, at position 7" in said
