"""Rows of a matrix in ascending order, with sums that make any interval of a row cheap to look at.

The best clusters of numbers on a line are intervals, so a clustering of a row is told by where its intervals end:
`Bounds`, int64 [rows, clusters + 1], from 0 to the row's length, ascending. Intervals may be empty.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bounds = NDArray[np.int64]

LEAST_SHARE: Final = 1e-6
"""Least importance of a weight, relative to its row's mean: none counts for nothing, so every interval has a mean."""


@dataclass(frozen=True, slots=True)
class SortedRows:
    """Numbers and their importance.

    Args:
        values: f64 [rows, columns], every row ascending.
        order: int64 [rows, columns]; column i of `values` is column order[i] of the matrix.
        mass: f64 [rows, columns + 1]; sum of the importance before each column.
        moment: f64 [rows, columns + 1]; sum of importance times value before each column.
    """

    values: Floats
    order: NDArray[np.int64]
    mass: Floats
    moment: Floats

    @classmethod
    def of(cls, matrix: NDArray[np.float32], importance: NDArray[np.float32]) -> Self:
        """Sort a matrix.

        Args:
            matrix: f32 [rows, columns], finite.
            importance: f32 [rows, columns], finite and not negative; a row of zeros counts as one of ones.
        """
        order = np.argsort(matrix, axis=1, kind="stable")
        values = np.take_along_axis(matrix, order, axis=1).astype(np.float64)
        weights = np.take_along_axis(importance, order, axis=1).astype(np.float64)
        mean = weights.mean(axis=1, keepdims=True)
        np.divide(weights, mean, out=weights, where=mean > 0)
        weights += np.where(mean > 0, LEAST_SHARE, 1.0)
        return cls(values, order, _sums(weights), _sums(weights * values))

    def some(self, rows: NDArray[np.int64]) -> Self:
        """Return the rows of these numbers."""
        return type(self)(self.values[rows], self.order[rows], self.mass[rows], self.moment[rows])

    def before(self, cuts: Floats) -> Bounds:
        """Return how many values of each row are less than each of its cuts: f64 [rows, n] -> int64 [rows, n]."""
        found = torch.searchsorted(torch.from_numpy(self.values), torch.from_numpy(np.ascontiguousarray(cuts)))
        return found.numpy()

    def masses(self, bounds: Bounds) -> Floats:
        """Return the importance of each interval: f64 [rows, clusters]."""
        return np.diff(np.take_along_axis(self.mass, bounds, axis=1), axis=1)

    def means(self, bounds: Bounds, empty: Floats) -> Floats:
        """Return the weighted mean of each interval, which lies within it; of an empty one, what `empty` says.

        Args:
            bounds: The intervals.
            empty: f64 [rows, clusters].
        """
        masses = self.masses(bounds)
        moments = np.diff(np.take_along_axis(self.moment, bounds, axis=1), axis=1)
        found = np.divide(moments, masses, out=empty.copy(), where=masses > 0)
        # What sums lose to rounding must not put a mean beside its interval.
        least = np.take_along_axis(self.values, np.minimum(bounds[:, :-1], self.values.shape[1] - 1), axis=1)
        most = np.take_along_axis(self.values, np.maximum(bounds[:, 1:] - 1, 0), axis=1)
        return np.where(masses > 0, np.clip(found, least, np.maximum(least, most)), empty)

    def spread(self, bounds: Bounds) -> Floats:
        """Return what the intervals' means explain of each row: the sum of mass times squared mean, f64 [rows].

        The weighted squared error of replacing every value by its interval's mean is the row's weighted sum of squares
        less this.
        """
        masses = self.masses(bounds)
        moments = np.diff(np.take_along_axis(self.moment, bounds, axis=1), axis=1)
        explained: Floats = np.divide(moments**2, masses, out=np.zeros_like(masses), where=masses > 0).sum(axis=1)
        return explained

    def apart(self, bounds: Bounds) -> Floats:
        """Return how much each two neighbouring intervals explain more than they do together: f64 [rows, clusters - 1].

        That is the harmonic mean of their masses, halved, times the square of the distance of their means.
        """
        masses = self.masses(bounds)
        means = self.means(bounds, np.zeros_like(masses))
        both = masses[:, 1:] + masses[:, :-1]
        shared = np.divide(masses[:, 1:] * masses[:, :-1], both, out=np.zeros_like(both), where=both > 0)
        return shared * np.diff(means, axis=1) ** 2

    def labels(self, bounds: Bounds) -> NDArray[np.uint8]:
        """Return the number of the interval that each column of the matrix is in: uint8 [rows, columns]."""
        rows, clusters = len(bounds), bounds.shape[1] - 1
        names = np.tile(np.arange(clusters, dtype=np.uint8), rows)
        in_order = np.repeat(names, np.diff(bounds, axis=1).ravel()).reshape(self.values.shape)
        found = np.empty_like(in_order)
        np.put_along_axis(found, self.order, in_order, axis=1)
        return found


def _sums(values: Floats) -> Floats:
    """Sums of the values before each column: f64 [rows, columns] -> f64 [rows, columns + 1]."""
    found = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=found[:, 1:])
    return found
