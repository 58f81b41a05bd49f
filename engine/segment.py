"""What a pass appends to sequences, whoever computes it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flexquant.engine.kv_cache import KVCache, KVSequence

Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
ReadRows = Callable[[int, Floats], None]
"""Takes the position of a token in its sequence, and the logits after it and those behind it: f32 [rows, vocab]."""
READ_ROWS: Final = 8
"""Rows whose logits exist at a time where all are read: as many as a pass of several answers has, so no more memory."""


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one sequence in a pass: int64 [n], n >= 1, appended at `sequence.length`."""

    sequence: KVSequence
    tokens: Tokens
    read: ReadRows | None = None
    """Gets the logits after every token, part by part; again from the start if the pass is made again."""


def nothing() -> None:
    """The safe point of a pass that nobody interrupts."""


def parts(rows: int) -> Iterator[slice]:
    """Cut rows into those whose logits are read together."""
    return (slice(first, min(first + READ_ROWS, rows)) for first in range(0, rows, READ_ROWS))


def extend(segments: Sequence[Segment], cache: KVCache) -> list[int]:
    """Map the pages that the segments' new tokens need; returns each sequence's length after them.

    Raises:
        ValueError: There are no segments, or one has no tokens.
        KVExhaustedError: The system has no memory for the pages.
    """
    sizes = [len(segment.tokens) for segment in segments]
    if not sizes or 0 in sizes:
        raise ValueError("a pass needs segments, and each of them tokens")
    ends = [segment.sequence.length + size for segment, size in zip(segments, sizes, strict=True)]
    for segment, end in zip(segments, ends, strict=True):
        cache.grow(segment.sequence, end)
    return ends
