"""Memory of the whole machine, as the operating system estimates it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.probes.kernel_file import counter, read_file
from flexquant.server.probes.probe import Reading


class VirtualMemory(Protocol):
    """The two numbers of `psutil.virtual_memory()` that count here, in bytes."""

    @property
    def available(self) -> int: ...
    @property
    def total(self) -> int: ...


class HostProbe:
    """`available` of psutil: on Linux MemAvailable, what programs can take before the system swaps.

    It knows nothing of container limits; those are sources of their own.

    Args:
        virtual_memory: Where the numbers come from.
        swapped_out: Gives the bytes written to swap since the system started; None where that is not known.
    """

    name = "host"

    def __init__(
        self,
        virtual_memory: Callable[[], VirtualMemory] = psutil.virtual_memory,
        swapped_out: Callable[[], int] | None = None,
    ) -> None:
        self._virtual_memory = virtual_memory
        self._swapped_out = swapped_out

    def read(self) -> Sequence[Reading]:
        """Available and total bytes of the machine, and what it has swapped out."""
        memory = self._virtual_memory()
        readings: list[Reading] = [MemoryReading(self.name, available=memory.available, total=memory.total)]
        if self._swapped_out is not None:
            readings.append(StressReading(self.name, swapped_out=self._swapped_out()))
        return readings


class SwappedOut:
    """Bytes that Linux has written to swap.

    psutil has the number too, but takes every page for 4 KiB. On macOS its number counts reading files, on Windows it
    is always 0: there is none to use.

    Args:
        proc: Where procfs is.
        page: Bytes of a page.
    """

    def __init__(self, proc: Path, page: int | None = None) -> None:
        self._path = proc / "vmstat"
        self._page = os.sysconf("SC_PAGE_SIZE") if page is None else page

    def __call__(self) -> int:
        """The bytes.

        Raises:
            OSError: procfs does not tell.
            ValueError: This kernel does not count them.
        """
        return counter(read_file(self._path), "pswpout") * self._page
