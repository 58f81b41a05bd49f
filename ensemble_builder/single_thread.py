"""Running small torch operations without threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone while the block runs.

    Operations of microseconds gain nothing from more threads; on a busy machine, where a thread of torch's pool has
    to wait for a core, each of them can take a hundred times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
