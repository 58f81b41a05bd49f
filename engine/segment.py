"""What a pass appends to sequences, whoever computes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexquant.engine.kv_cache import KVCache, KVSequence

Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one sequence in a pass: int64 [n], n >= 1, appended at `sequence.length`."""

    sequence: KVSequence
    tokens: Tokens


def nothing() -> None:
    """The safe point of a pass that nobody interrupts."""


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
