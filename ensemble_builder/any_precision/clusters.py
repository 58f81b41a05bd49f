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
from flexquant.ensemble_builder.single_thread import single_thread

ROUNDS: Final = 50
"""Most rounds of Lloyd's algorithm."""
MOVES: Final = 24
"""Most clusters that are moved elsewhere in a row."""
LEAST_GAIN: Final = 2e-5
"""Of what the clusters explain of a row: a move that adds less is the last one."""
TOGETHER: Final = 1 << 16
"""Weights that are clustered at once; they should stay in a core's cache, and each takes about 150 bytes."""


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
    with single_thread():
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

    Lloyd's algorithm from where splitting again and again leads. Then, as long as that helps: the two neighbours that
    are cheapest to put together become one, the best place in another cluster is cut, and Lloyd's algorithm goes on.

    Args:
        rows: The rows.
        width: Bits; 2^width clusters.
    """
    bounds = np.array([[0, rows.values.shape[1]]]).repeat(len(rows.values), axis=0)
    for _ in range(width):
        bounds = split(rows, bounds)
    bounds, centres = lloyd(rows, bounds)
    moving = np.arange(len(bounds))
    for _ in range(MOVES if width > 1 else 0):
        part = rows.some(moving)
        there = lloyd(part, _moved(part, bounds[moving]))
        better = part.spread(there[0]) > part.spread(bounds[moving]) * (1 + LEAST_GAIN)
        moving = moving[better]
        if not moving.size:
            break
        bounds[moving], centres[moving] = (found[better] for found in there)
    return bounds, centres


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


def _moved(rows: SortedRows, bounds: Bounds) -> Bounds:
    """Put the two neighbours of least cost together, and cut the other cluster that gains most by it."""
    halves = split(rows, bounds)
    gains = rows.apart(halves)[:, ::2]
    cheapest = rows.apart(bounds).argmin(axis=1)[:, None]
    for beside in (cheapest, cheapest + 1):
        np.put_along_axis(gains, beside, -1.0, axis=1)
    cut = np.take_along_axis(halves, 2 * gains.argmax(axis=1)[:, None] + 1, axis=1)
    moved = bounds.copy()
    np.put_along_axis(moved, cheapest + 1, cut, axis=1)
    moved.sort(axis=1)
    return moved
