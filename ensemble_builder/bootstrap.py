"""How sure a mean over windows is: percentile intervals of the bootstrap (Efron, 1979). Pure, and seeded."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
SHARE: Final = 0.95
SEED: Final = 0

Interval = tuple[float, float]


def mean_interval(samples: Sequence[float]) -> Interval:
    """Interval of the mean."""
    return _interval(_means(samples))


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Interval of the ratio of two means over the same windows, which are drawn together.

    Args:
        ours: One figure per window.
        theirs: As many, positive.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} windows against {len(theirs)}")
    return _interval(_means(ours) / _means(theirs))


def _means(samples: Sequence[float]) -> NDArray[np.float64]:
    """Means of resamples; the same windows for the same number of samples."""
    drawn = np.random.default_rng(SEED).integers(len(samples), size=(RESAMPLES, len(samples)))
    means: NDArray[np.float64] = np.asarray(samples, np.float64)[drawn].mean(axis=1)
    return means


def _interval(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)
