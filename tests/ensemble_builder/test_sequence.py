"""Assignments, footprints and area."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.sequence import Unit, area, best, footprint, lowered, smallest, states_along

UNITS = (Unit("a", (100, 40)), Unit("b", (90, 50, 20)), Unit("c", (10,)))


def test_ends_of_the_range() -> None:
    assert best(UNITS) == (0, 0, 0)
    assert smallest(UNITS) == (1, 2, 0)
    assert [footprint(UNITS, state) for state in (best(UNITS), smallest(UNITS))] == [200, 70]


def test_states_along_an_order() -> None:
    assert states_along(UNITS, (1, 0, 1)) == [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 2, 0)]


def test_lowering_one_unit() -> None:
    assert lowered((0, 1, 2), 1) == (0, 2, 2)


@pytest.mark.parametrize("sizes", [(), (5, 5), (5, 6), (9, 4, 4)])
def test_sizes_must_fall(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fall strictly"):
        Unit("x", sizes)


def test_area_of_a_straight_line_is_the_mean_of_its_ends() -> None:
    assert area([100, 60, 0], [0.0, 0.4, 1.0]) == pytest.approx(0.5)


def test_area_weighs_by_bytes() -> None:
    assert area([100, 90, 0], [0.0, 1.0, 1.0]) == pytest.approx(0.1 * 0.5 + 0.9)


def test_area_without_a_range_is_the_loss() -> None:
    assert area([7], [0.25]) == 0.25


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 10)), min_size=2, max_size=9),
    st.integers(1, 9),
    st.floats(0.1, 5),
)
def test_area_scales_with_loss_and_not_with_bytes(
    steps: list[tuple[int, float]], bytes_by: int, loss_by: float
) -> None:
    left = sum(saved for saved, _ in steps)
    footprints = [left := left - saved for saved, _ in steps]
    losses = [loss for _, loss in steps]
    scaled = area([footprint * bytes_by for footprint in footprints], [loss * loss_by for loss in losses])
    assert scaled == pytest.approx(loss_by * area(footprints, losses))
