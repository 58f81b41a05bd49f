"""The engine's borders are numpy's; tests compare with torch."""

from torch import Tensor

from flexquant.engine.kv_cache import KVSequence
from flexquant.engine.segment import Segment


def appended(sequence: KVSequence, tokens: Tensor) -> Segment:
    """A segment of tokens, int64 [n]."""
    return Segment(sequence, tokens.numpy())
