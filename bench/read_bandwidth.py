"""How fast this machine reads memory: the limit of every decode step."""

import mmap
import threading
import time
from typing import Final

import numpy as np

_REPEATS: Final = 5


def read_bandwidth(nbytes: int, threads: int) -> list[float]:
    """Read an array several times, each thread its own part.

    Sums of 64-bit integers are bound by memory alone on the machines that we know; numpy lets go of the interpreter
    lock meanwhile.

    Args:
        nbytes: Of the array; far beyond the caches.
        threads: That read at the same time.

    Returns:
        Bytes per second of every repeat.
    """
    memory = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # as the weights have them
    array = np.frombuffer(memory, np.int64)
    array[:] = 1
    parts = np.array_split(array, threads)

    def once() -> float:
        readers = [threading.Thread(target=part.sum) for part in parts]
        start = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return nbytes / (time.perf_counter() - start)

    return [once() for _ in range(_REPEATS)]
