"""Running small torch operations without threads.

Operations of microseconds gain nothing from more threads; on a busy machine, where a thread of torch's pool has to
wait for a core, each of them can take a hundred times as long.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch

WORTH_THREADS: Final = 1 << 21
"""Weights of a layer from which on its matrix products are worth more than one thread."""


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone while the block runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def worthwhile_threads(weights: int) -> AbstractContextManager[None]:
    """Let torch use its threads while the block runs, but not for a layer of few weights."""
    return nullcontext() if weights >= WORTH_THREADS else single_thread()
