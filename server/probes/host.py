"""Memory of the whole machine, as the operating system estimates it."""

from collections.abc import Callable, Sequence
from typing import Protocol

import psutil

from flexquant.server.controller.sample import MemoryReading


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
    """

    name = "host"

    def __init__(self, virtual_memory: Callable[[], VirtualMemory] = psutil.virtual_memory) -> None:
        self._virtual_memory = virtual_memory

    def read(self) -> Sequence[MemoryReading]:
        """Available and total bytes of the machine."""
        memory = self._virtual_memory()
        return [MemoryReading(self.name, available=memory.available, total=memory.total)]
