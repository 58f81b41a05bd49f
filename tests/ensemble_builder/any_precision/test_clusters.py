"""Clusters of rows: what every width has of the wider ones, and how near to the best they are."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexquant.ensemble_builder.any_precision.clusters import cluster, seed
from flexquant.ensemble_builder.any_precision.sorted_rows import Bounds, SortedRows
from flexquant.ensemble_builder.any_precision.splitting import split

Matrix = NDArray[np.float32]

unhurried = settings(deadline=None, max_examples=50)
"""How long an example takes depends on what else the machine does."""

numbers = st.one_of(
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 0.5, -1.0, 60000.0, -60000.0, 1e-30]),
)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Matrix, Matrix]:
    """A matrix and its importance, of which some rows may be zeros."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    values = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    weights = draw(st.lists(st.sampled_from([0.0, 1e-12, 1.0, 3.0, 1e6]), min_size=len(values), max_size=len(values)))
    return np.array(values, np.float32).reshape(rows, columns), np.array(weights, np.float32).reshape(rows, columns)


@st.composite
def widths(draw: st.DrawFn) -> list[int]:
    return sorted(draw(st.sets(st.integers(1, 8), min_size=1, max_size=4)))


def error_of(rows: SortedRows, bounds: Bounds) -> float:
    """Weighted squared error of all rows, summed by hand."""
    total = 0.0
    weights = np.diff(rows.mass, axis=1)
    for values, importance, ends in zip(rows.values, weights, bounds, strict=True):
        for first, last in pairwise(ends):
            if last > first:
                total += spread_of(values[first:last], importance[first:last])
    return total


def spread_of(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float((weights * (values - np.average(values, weights=weights)) ** 2).sum())


@unhurried
@given(matrices(), widths())
def test_every_width_is_a_prefix_of_the_widest(given_rows: tuple[Matrix, Matrix], bits: list[int]) -> None:
    matrix, importance = given_rows
    found = cluster(matrix, importance, bits)
    assert sorted(found.tables) == bits
    for width in bits:
        alone = cluster(matrix, importance, [at for at in bits if at <= width])
        assert np.array_equal(alone.codes, found.codes >> (bits[-1] - width))
        assert np.array_equal(alone.tables[width], found.tables[width])
        assert found.tables[width].shape == (len(matrix), 1 << width)


@unhurried
@given(matrices(), widths())
def test_codes_rise_with_the_weights_and_tables_ascend(given_rows: tuple[Matrix, Matrix], bits: list[int]) -> None:
    matrix, importance = given_rows
    found = cluster(matrix, importance, bits)
    order = np.argsort(matrix, axis=1)
    values, codes = (np.take_along_axis(x, order, axis=1) for x in (matrix, found.codes.astype(int)))
    steps = np.diff(codes, axis=1)
    assert (steps >= 0).all()
    assert (steps[np.diff(values, axis=1) == 0] == 0).all()
    for width, table in found.tables.items():
        assert (np.diff(table.astype(float), axis=1) >= 0).all()
        used = np.take_along_axis(table, (found.codes >> (bits[-1] - width)).astype(np.int64), axis=1)
        assert (used >= matrix.min(axis=1, keepdims=True).astype(np.float16)).all()
        assert (used <= matrix.max(axis=1, keepdims=True).astype(np.float16)).all()


@unhurried
@given(matrices(), st.integers(1, 4))
def test_the_error_never_rises_with_bits(given_rows: tuple[Matrix, Matrix], width: int) -> None:
    rows = SortedRows.of(*given_rows)
    bounds, _ = seed(rows, width)
    tolerance = 1e-9 * (np.diff(rows.mass, axis=1) * rows.values**2).sum()
    before = error_of(rows, bounds)
    for _ in range(8 - width):
        bounds = split(rows, bounds)
        assert (np.diff(bounds, axis=1) >= 0).all()
        assert error_of(rows, bounds) <= before + tolerance
        before = error_of(rows, bounds)


def test_a_split_is_the_best_of_all() -> None:
    """Every place is tried by hand."""
    random = np.random.default_rng(0)
    rows = SortedRows.of(
        random.standard_normal((20, 12)).round(1).astype(np.float32), random.random((20, 12)).astype(np.float32)
    )
    halves = split(rows, np.array([[0, 12]]).repeat(20, axis=0))
    weights = np.diff(rows.mass, axis=1)
    for at in range(20):
        values, importance = rows.values[at], weights[at]
        errors = {
            cut: spread_of(values[:cut], importance[:cut]) + spread_of(values[cut:], importance[cut:])
            for cut in range(1, 12)
            if values[cut] > values[cut - 1]
        }
        assert errors[int(halves[at, 1])] == pytest.approx(min(errors.values()), rel=1e-9)


def best_error(values: NDArray[np.float64], weights: NDArray[np.float64], clusters: int) -> float:
    return min(
        sum(spread_of(values[first:last], weights[first:last]) for first, last in pairwise((0, *cuts, len(values))))
        for cuts in combinations(range(1, len(values)), clusters - 1)
    )


def test_the_seed_is_near_the_best() -> None:
    """Of four clusters of eleven weights: together within 3 % of the best of all, and mostly the best itself."""
    random = np.random.default_rng(1)
    rows = SortedRows.of(
        random.standard_normal((60, 11)).astype(np.float32), random.exponential(size=(60, 11)).astype(np.float32)
    )
    bounds, _ = seed(rows, 2)
    weights = np.diff(rows.mass, axis=1)
    best = [best_error(values, importance, 4) for values, importance in zip(rows.values, weights, strict=True)]
    found = [error_of(rows.some(np.array([at])), bounds[at : at + 1]) for at in range(60)]
    assert all(ours >= least * (1 - 1e-9) for ours, least in zip(found, best, strict=True))
    assert sum(found) < 1.03 * sum(best)
    assert sum(ours < least * (1 + 1e-9) for ours, least in zip(found, best, strict=True)) > 30


def parts(rows: SortedRows) -> tuple[NDArray[Any], ...]:
    return rows.values, rows.order, rows.mass, rows.moment


def test_what_matters_more_is_kept_closer() -> None:
    values = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    importance = np.where(values > 0.5, 1000, 1).astype(np.float32)
    found = cluster(values, importance, [3])
    error = np.abs(np.take_along_axis(found.tables[3], found.codes.astype(np.int64), axis=1) - values)
    assert error[importance > 1].mean() < error[importance == 1].mean() / 2


def test_rows_are_clustered_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is clustered together."""
    random = np.random.default_rng(2)
    matrix = random.standard_normal((7, 32)).astype(np.float32)
    importance = random.random((7, 32)).astype(np.float32)
    whole = cluster(matrix, importance, [2, 4])
    monkeypatch.setattr("flexquant.ensemble_builder.any_precision.clusters.TOGETHER", 64)
    apart = cluster(matrix, importance, [2, 4])
    assert np.array_equal(whole.codes, apart.codes)
    assert all(np.array_equal(whole.tables[width], apart.tables[width]) for width in (2, 4))
