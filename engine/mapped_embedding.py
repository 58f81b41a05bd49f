"""The embedding table, left in its file.

A token touches one row, so mapping the file costs a few pages where a copy of the table would cost hundreds of
megabytes for a large vocabulary.
"""

import numpy as np

from flexquant.engine.errors import CheckpointError
from flexquant.engine.float_types import BITS, as_float32
from flexquant.engine.segment import Floats, Tokens
from flexquant.engine.tensor_index import TensorEntry


class MappedEmbedding:
    """Rows of a [vocab, hidden] table of type F16, BF16 or F32 that stays in its file.

    The rows are read through a shared read-only mapping: the system may drop its pages at any time and reads them
    again, so they are no anonymous memory. The file must not be truncated meanwhile; replacing it is fine.

    Args:
        entry: Where the table lies.

    Raises:
        CheckpointError: It is no such table, or its file cannot be mapped.
    """

    def __init__(self, entry: TensorEntry) -> None:
        if entry.dtype not in BITS or len(entry.shape) != 2 or entry.nbytes == 0:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.name}: {entry.dtype} of shape {list(entry.shape)} is no embedding table; "
                f"expected a matrix of {', '.join(BITS)}"
            )
        self._dtype = entry.dtype
        try:
            self._table = np.memmap(
                entry.file, dtype=BITS[entry.dtype], mode="r", offset=entry.offset, shape=entry.shape
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{entry.file}: cannot be mapped: {error}") from error

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the table in its file; an upper limit of what is resident."""
        return self._table.nbytes

    def rows(self, tokens: Tokens) -> Floats:
        """Look up rows.

        Args:
            tokens: int64 [rows], each from 0 to vocab - 1.

        Returns:
            f32 [rows, hidden], a copy.

        Raises:
            IndexError: A token is outside the vocabulary.
        """
        if tokens.size and tokens.min() < 0:
            raise IndexError(f"token {tokens.min()} is outside the vocabulary of {len(self._table)}")
        return as_float32(np.asarray(self._table[tokens]), self._dtype)
