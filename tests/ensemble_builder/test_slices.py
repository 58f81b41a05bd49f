"""Cutting layers into column slices."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.slices import Columns, slices_within


def cut(out_features: int, per_column: int, fixed: int, max_step: int | None) -> tuple[Columns | None, ...]:
    """Cut a layer whose steps give back so many bytes per column, padding included, and so many in any case."""

    def step_of(columns: Columns | None) -> int:
        first, last = columns or (0, out_features)
        return fixed + per_column * (-(-(last - first) // 32) * 32)

    return slices_within(out_features, step_of, max_step)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 50), st.integers(0, 500), st.integers(1, 200_000))
def test_the_fewest_equal_slices_that_keep_to_the_limit(
    out_features: int, per_column: int, fixed: int, max_step: int
) -> None:
    found = cut(out_features, per_column, fixed, max_step)
    if found == (None,):
        assert out_features <= 32 or fixed + per_column * -(-out_features // 32) * 32 <= max_step
        return
    slices = [columns for columns in found if columns is not None]
    assert len(slices) == len(found) >= 2
    assert (slices[0][0], slices[-1][1]) == (0, out_features)
    assert all(here[1] == there[0] for here, there in pairwise(slices))
    assert all(first % 32 == 0 for first, _ in slices)
    blocks = [-(-(last - first) // 32) for first, last in slices]
    assert max(blocks) - min(blocks) <= 1
    if max(blocks) > 1:
        assert fixed + per_column * 32 * max(blocks) <= max_step
        coarser = -(-(sum(blocks)) // (len(slices) - 1))
        assert fixed + per_column * 32 * coarser > max_step, "fewer slices would have done"


def test_a_layer_of_small_steps_stays_whole() -> None:
    assert cut(64, 10, 0, None) == (None,)
    assert cut(64, 10, 0, 640) == (None,)
    assert cut(64, 10, 0, 639) == ((0, 32), (32, 64))


def test_the_last_slice_ends_with_the_layer() -> None:
    assert cut(100, 1, 0, 64) == ((0, 64), (64, 100))
