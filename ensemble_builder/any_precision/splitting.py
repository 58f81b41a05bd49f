"""Splitting every interval of sorted rows in two: the best weighted 2-means, found by trying every place to cut."""

import numpy as np

from flexquant.ensemble_builder.any_precision.sorted_rows import Bounds, Floats, SortedRows


def split(rows: SortedRows, bounds: Bounds) -> Bounds:
    """Cut each interval where that takes most of its weighted squared error away.

    Equal values stay together. An interval that is empty or of equal values alone is not cut: it is the first of its
    two, and the second one is empty.

    Args:
        rows: The rows.
        bounds: int64 [rows, clusters + 1].

    Returns:
        int64 [rows, 2 * clusters + 1].
    """
    count, columns = rows.values.shape
    lengths = np.diff(bounds, axis=1)
    gain = _gains(rows, bounds, lengths)
    # Intervals lie behind each other, so each one's best place is found by a reduction over pieces of one vector.
    held = lengths > 0
    first = (bounds[:, :-1] + columns * np.arange(count)[:, None])[held]
    best = np.maximum.reduceat(gain, first)
    at = np.arange(gain.size)
    at[gain < np.repeat(best, lengths[held])] = gain.size
    cut = bounds[:, 1:].copy()
    found = np.minimum.reduceat(at, first) % columns
    cut[held] = np.where(best >= 0, found, cut[held])
    both = np.empty((count, 2 * bounds.shape[1] - 1), np.int64)
    both[:, ::2], both[:, 1::2] = bounds, cut
    return both


def _gains(rows: SortedRows, bounds: Bounds, lengths: Bounds) -> Floats:
    """Return the error that a cut before each value takes away, -1 where there can be none: f64 [rows * columns]."""

    def of_interval(sums: Floats, ends: Bounds) -> Floats:
        return np.repeat(np.take_along_axis(sums, ends, axis=1).ravel(), lengths.ravel()).reshape(rows.values.shape)

    starts, ends = bounds[:, :-1], bounds[:, 1:]
    inside = np.repeat(starts.ravel(), lengths.ravel()).reshape(rows.values.shape) < np.arange(rows.values.shape[1])
    inside[:, 1:] &= rows.values[:, 1:] > rows.values[:, :-1]
    left = rows.mass[:, :-1] - of_interval(rows.mass, starts)
    right = of_interval(rows.mass, ends) - rows.mass[:, :-1]
    inside &= (left > 0) & (right > 0)
    left[~inside] = right[~inside] = 1.0
    apart = (rows.moment[:, :-1] - of_interval(rows.moment, starts)) / left
    apart -= (of_interval(rows.moment, ends) - rows.moment[:, :-1]) / right
    gain = left * right / (left + right) * apart**2
    gain[~inside] = -1.0
    return gain.ravel()
