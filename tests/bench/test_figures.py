"""Medians, percentiles, lines: what the bench makes of its samples."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import (
    Figure,
    by_key,
    gaps,
    over_baseline,
    percentile,
    rate_together,
    spread_positions,
    worst_deviation,
)

positive = st.floats(min_value=1e-6, max_value=1e6)


def test_a_figure_is_the_median_between_least_and_most() -> None:
    assert Figure.of([3.0, 1.0, 10.0, 2.0]) == Figure(median=2.5, least=1.0, most=10.0, rounds=4)


def test_a_figure_needs_samples() -> None:
    with pytest.raises(ValueError, match="samples"):
        Figure.of([])


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100), (0.001, 1)])
def test_percentile_of_one_to_a_hundred(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


@given(st.lists(positive, min_size=1), st.floats(min_value=0.01, max_value=1))
def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed(samples: list[float], share: float) -> None:
    found = percentile(samples, share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 1e-9
    assert sum(sample < found for sample in samples) < share * len(samples)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_percentile_has_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile([1.0], share)


def test_points_on_a_line_do_not_deviate() -> None:
    assert worst_deviation([1, 2, 3, 4], [12, 14, 16, 18]) == pytest.approx(0, abs=1e-12)


def test_the_worst_point_counts() -> None:
    # The line through these is 10 everywhere; the middle is 10 % beyond it.
    assert worst_deviation([0, 1, 2, 3, 4], [9.5, 10, 11, 10, 9.5]) == pytest.approx(0.1)


@given(st.integers(1, 500), st.integers(2, 12))
def test_positions_reach_both_ends_and_are_evenly_spread(last: int, count: int) -> None:
    positions = spread_positions(last, count)
    assert positions[0] == 0
    assert positions[-1] == last
    assert len(positions) == min(count, last + 1)
    gaps = [after - before for before, after in pairwise(positions)]
    assert max(gaps) - min(gaps) <= 1


def test_samples_over_the_baseline_of_their_key() -> None:
    assert over_baseline([(1, 3.0), (2, 3.0)], {1: 1.0, 2: 6.0}) == [3.0, 0.5]


def test_samples_by_key_keep_their_order() -> None:
    assert by_key([(2, 1.0), (1, 5.0), (2, 0.5)]) == {2: [1.0, 0.5], 1: [5.0]}


def test_one_stream_is_timed_from_its_first_token_to_its_last() -> None:
    assert rate_together([([10.0, 10.5, 11.0, 12.0], 4)]) == pytest.approx(3 / 2)


def test_streams_are_timed_while_all_of_them_run() -> None:
    early, late = [0.0, 1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5]
    # From 1.5 to 4.0: three tokens of the first, two of the second.
    assert rate_together([(early, 5), (late, 4)]) == pytest.approx(5 / 2.5)


def test_parts_with_several_tokens_count_as_such() -> None:
    assert rate_together([([0.0, 1.0, 2.0, 3.0], 8)]) == pytest.approx(6 / 3)


def test_streams_one_after_the_other_have_no_rate_together() -> None:
    with pytest.raises(ValueError, match="same time"):
        rate_together([([0.0, 1.0], 2), ([1.0, 2.0], 2)])


@given(
    st.lists(positive, min_size=2, max_size=50, unique=True).map(sorted),
    st.floats(min_value=0.5, max_value=100),
    st.integers(1, 4),
)
def test_a_rate_of_equal_streams_is_that_of_one_times_their_number(
    times: list[float], tokens_per_part: float, streams: int
) -> None:
    tokens = round(tokens_per_part * len(times))
    one = rate_together([(times, tokens)])
    assert rate_together([(times, tokens)] * streams) == pytest.approx(streams * one)


def test_gaps_are_those_that_overlap_with_the_time_asked_for() -> None:
    times = [0.0, 1.0, 3.0, 6.0, 10.0]
    assert gaps(times, 2.0, 5.0) == [2.0, 3.0]
    assert gaps(times, 1.0, 3.0) == [2.0]
    assert gaps(times, 10.0, 11.0) == []
