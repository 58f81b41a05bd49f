"""Non-uniform quantization of rows to several widths at once, after Any-Precision LLM (Park et al., arXiv 2402.10517).

The narrowest width's clusters come from weighted 1-D k-means over each row, as in SqueezeLLM (Kim et al., arXiv
2306.07629); every further bit splits each cluster in two. So the code of a weight at b bits is the first b bits of its
code at any greater width, and every width needs nothing of its own but a table of values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexquant.ensemble_builder.any_precision.sorted_rows import Bounds, Floats, SortedRows
from flexquant.ensemble_builder.any_precision.splitting import split

ROUNDS: Final = 50
"""Most rounds of Lloyd's algorithm."""
BINS: Final = 1024
"""Of the histogram that the second start is read from."""
TOGETHER: Final = 1 << 20
"""Weights that are clustered at once; each takes about 150 bytes meanwhile."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """A matrix, quantized.

    Args:
        codes: uint8 [rows, columns], of the greatest width.
        tables: By width: f16 [rows, 2^width], ascending.
    """

    codes: NDArray[np.uint8]
    tables: dict[int, NDArray[np.float16]]


def cluster(matrix: NDArray[np.float32], importance: NDArray[np.float32], widths: Sequence[int]) -> Clusters:
    """Quantize the rows of a matrix, each by itself.

    Args:
        matrix: f32 [rows, columns], finite in f16.
        importance: f32 [rows, columns]: how much the squared error of each weight matters, relative to its row.
        widths: Bits, 1 to 8, ascending.
    """
    rows = max(1, TOGETHER // matrix.shape[1])
    found = [
        _cluster(SortedRows.of(matrix[at : at + rows], importance[at : at + rows]), widths)
        for at in range(0, len(matrix), rows)
    ]
    return Clusters(
        np.concatenate([part.codes for part in found]),
        {width: np.concatenate([part.tables[width] for part in found]) for width in widths},
    )


def _cluster(rows: SortedRows, widths: Sequence[int]) -> Clusters:
    bounds, centres = seed(rows, widths[0])
    tables = {widths[0]: centres.astype(np.float16)}
    for width in range(widths[0] + 1, widths[-1] + 1):
        bounds = split(rows, bounds)
        centres = rows.means(bounds, np.repeat(centres, 2, axis=1))
        if width in widths:
            tables[width] = centres.astype(np.float16)
    return Clusters(rows.labels(bounds), tables)


def seed(rows: SortedRows, width: int) -> tuple[Bounds, Floats]:
    """Return clusters of the rows by k-means, and their centres.

    Lloyd's algorithm from two starts, of which each row takes the better end: splitting again and again, and the
    spacing that is best for many clusters (Panter and Dite, 1951), in proportion to the cube root of the density.

    Args:
        rows: The rows.
        width: Bits; 2^width clusters.
    """
    halved = np.array([[0, rows.values.shape[1]]]).repeat(len(rows.values), axis=0)
    for _ in range(width):
        halved = split(rows, halved)
    first, second = lloyd(rows, halved), lloyd(rows, _spaced(rows, 1 << width))
    better = (rows.spread(second[0]) > rows.spread(first[0]))[:, None]
    return np.where(better, second[0], first[0]), np.where(better, second[1], first[1])


def lloyd(rows: SortedRows, bounds: Bounds) -> tuple[Bounds, Floats]:
    """Return clusters that Lloyd's algorithm (1957) reaches from a start, and their centres, ascending."""
    least = np.repeat(rows.values[:, :1], bounds.shape[1] - 1, axis=1)
    centres = np.maximum.accumulate(rows.means(bounds, least), axis=1)  # empty ones lie with the one before them
    for _ in range(ROUNDS):
        ends = rows.before((centres[:, 1:] + centres[:, :-1]) / 2)
        moved = bounds.copy()
        moved[:, 1:-1] = ends
        if np.array_equal(moved, bounds):
            break
        bounds, centres = moved, rows.means(moved, centres)
    return bounds, centres


def _spaced(rows: SortedRows, clusters: int) -> Bounds:
    """Return clusters between whose ends the cube root of the density of importance adds up to the same."""
    count, columns = rows.values.shape
    least, most = rows.values[:, :1], rows.values[:, -1:]
    edges = np.zeros((count, BINS + 1), np.int64)
    edges[:, 1:-1] = rows.before(least + (most - least) * (np.arange(1, BINS) / BINS))
    edges[:, -1] = columns
    roots = np.cumsum(np.cbrt(rows.masses(edges)), axis=1)
    shares = roots / roots[:, -1:]
    at = np.stack([(shares < part / clusters).sum(axis=1) for part in range(1, clusters)], axis=1)
    bounds = np.zeros((count, clusters + 1), np.int64)
    bounds[:, 1:-1] = np.take_along_axis(edges, at, axis=1)
    bounds[:, -1] = columns
    return bounds
