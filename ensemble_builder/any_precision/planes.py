"""Codes as bit planes: what an Any-Precision store has of a layer beside its tables."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.model_config import ModelConfig

COLUMN_MULTIPLE: Final = 32
"""A row of a plane is whole words."""


def check_sizes(checkpoint: Path, config: ModelConfig) -> None:
    """Check that planes of the model's layers are whole words.

    Raises:
        UnsupportedModelError: They are not.
    """
    for shape in config.linears():
        if shape.in_features % COLUMN_MULTIPLE:
            raise UnsupportedModelError(
                f"{checkpoint}: {shape.key} has {shape.in_features} inputs; Any-Precision needs a multiple of "
                f"{COLUMN_MULTIPLE}"
            )


def planes_of(codes: NDArray[np.uint8], width: int, first: int, last: int) -> NDArray[np.int32]:
    """Return some bits of all codes.

    Args:
        codes: uint8 [rows, columns] of `width` bits; columns is a multiple of 32.
        width: Bits of a code.
        first: First bit, counted from the most significant one.
        last: Bit behind the last.

    Returns:
        int32 [last - first, rows, columns / 32], the most significant plane first. Column 32 w + i is bit i of word w.
    """
    bits = [codes >> (width - 1 - at) & 1 for at in range(first, last)]
    packed = np.packbits(np.stack(bits), axis=2, bitorder="little")
    return packed.view("<i4").astype(np.int32, copy=False)
