"""Bytes of Any-Precision layers, computed from their shapes."""

from flexquant.engine.model_config import LinearShape
from flexquant.ensemble_builder.any_precision.widths import Widths
from flexquant.ensemble_builder.slices import Columns


def planes_and_tables(shape: LinearShape, widths: Widths, columns: Columns | None = None) -> list[int]:
    """Return the bytes of a layer, or of some of its outputs, at each of its levels from best to smallest.

    A level has the planes of its width, and the tables of this and all lower ones.

    Args:
        shape: The layer.
        widths: See `Widths`.
        columns: Half-open range of outputs; all if None.
    """
    first, last = (0, shape.out_features) if columns is None else columns
    outputs = last - first
    tables, found = 2 * outputs if shape.bias else 0, []
    for bits in widths.values():
        tables += 2 * outputs << bits
        found.append(bits * outputs * shape.in_features // 8 + tables)
    return found[::-1]
