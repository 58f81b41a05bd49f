"""How a prompt is cut into passes: on a grid fixed from token 0, so that a token's pass never depends on what came
before it in the cache, and equal prompts give equal keys and values."""

from collections.abc import Iterator
from typing import Final

CHUNK_TOKENS: Final = 256


def chunks(start: int, total: int, chunk: int = CHUNK_TOKENS) -> Iterator[range]:
    """Yield the ranges of tokens from `start` to `total` that are computed together.

    Args:
        start: Tokens that are computed already.
        total: Tokens of the prompt.
        chunk: Distance of the grid's lines.
    """
    while start < total:
        end = min(total, (start // chunk + 1) * chunk)
        yield range(start, end)
        start = end
