"""Widths of rows: whole levels are uniform, others mix two neighbours to the right average."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.model_config import LinearShape
from flexquant.ensemble_builder.bit_allocation import allocate, head_bits, neighbours
from flexquant.ensemble_builder.row_groups import WIDTHS
from support.tiny_model import tiny_config

LINEARS = tiny_config(hidden_size=256, intermediate_size=640, heads=8, head_dim=32, layers=4).linears()


def average(linears: list[LinearShape], level: float, group_size: int) -> float:
    sections = allocate(linears, level, group_size)
    decoder = [shape for shape in linears if shape.layer is not None]
    bits = sum(width * rows * shape.out_features for shape in decoder for width, rows in sections[shape.key])
    return bits / sum(shape.in_features * shape.out_features for shape in decoder)


@pytest.mark.parametrize("level", WIDTHS)
def test_a_whole_width_is_the_same_everywhere(level: int) -> None:
    for shape in LINEARS:
        widths = allocate(LINEARS, level, 32)[shape.key]
        assert widths == [(max(6, level) if shape.layer is None else level, shape.in_features)]


@given(level=st.floats(2, 8), group_size=st.sampled_from([32, 64, 128]))
@settings(deadline=None)
def test_the_average_is_what_was_asked_for(level: float, group_size: int) -> None:
    # What is left over is at most one group of rows of the widest linear.
    weights = sum(shape.in_features * shape.out_features for shape in LINEARS[:-1])
    low, high = neighbours(level)
    tolerance = (high - low) * group_size * 640 / weights
    assert abs(average(LINEARS, level, group_size) - level) <= tolerance + 1e-9


@given(
    level=st.floats(2, 8),
    group_size=st.sampled_from([32, 64, 128]),
    inputs=st.integers(1, 9),
    outputs=st.lists(st.integers(1, 99), min_size=3, max_size=3),
)
@settings(deadline=None)
def test_sections_cover_all_rows_in_whole_groups_and_fall(
    level: float, group_size: int, inputs: int, outputs: list[int]
) -> None:
    shapes = [LinearShape(f"layer.{at}", 32 * inputs, wide, bias=False, layer=at) for at, wide in enumerate(outputs)]
    for sections in allocate(shapes, level, group_size).values():
        assert sum(rows for _, rows in sections) == 32 * inputs
        assert all(rows > 0 for _, rows in sections)
        assert all(rows % group_size == 0 for _, rows in sections[:-1])
        widths = [bits for bits, _ in sections]
        assert widths == sorted(set(widths), reverse=True)
        assert set(widths) <= set(neighbours(level))


@pytest.mark.parametrize(("level", "bits"), [(2, 6), (3, 6), (6, 6), (6.1, 8), (7, 8), (8, 8)])
def test_the_head_has_six_bits_or_more(level: float, bits: int) -> None:
    assert head_bits(level) == bits
    assert allocate(LINEARS, level, 32)["lm_head"] == [(bits, 256)]


@pytest.mark.parametrize(("level", "expected"), [(2, (2, 2)), (2.5, (2, 3)), (5.5, (5, 6)), (7, (6, 8)), (8, (8, 8))])
def test_neighbours(level: float, expected: tuple[int, int]) -> None:
    assert neighbours(level) == expected
