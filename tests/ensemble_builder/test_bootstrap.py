"""Intervals over windows."""

import numpy as np
import pytest

from flexquant.ensemble_builder.bootstrap import mean_interval, ratio_interval

SAMPLES = [0.02, 0.05, 0.03, 0.08, 0.04, 0.02, 0.06]


def test_an_interval_holds_the_mean_and_is_the_same_every_time() -> None:
    low, high = mean_interval(SAMPLES)
    assert min(SAMPLES) <= low < np.mean(SAMPLES) < high <= max(SAMPLES)
    assert mean_interval(SAMPLES) == (low, high)


def test_more_windows_make_a_narrower_interval() -> None:
    few, many = mean_interval(SAMPLES), mean_interval(SAMPLES * 16)
    assert many[1] - many[0] < (few[1] - few[0]) / 3


def test_a_ratio_is_taken_over_the_same_windows() -> None:
    low, high = ratio_interval([0.5 * value for value in SAMPLES], SAMPLES)
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)
    with pytest.raises(ValueError, match="7 windows against 6"):
        ratio_interval(SAMPLES, SAMPLES[1:])
