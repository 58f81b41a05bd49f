"""Memory of a graphics card that has its own, for weights that lie there."""

from collections.abc import Callable, Sequence

from flexquant.server.controller.sample import MemoryReading


class CudaProbe:
    """Free memory of the device. One that shares the host's memory has no such source: the host's counts.

    Args:
        memory: Gives free and total bytes.
    """

    name = "cuda"

    def __init__(self, memory: Callable[[], tuple[int, int]]) -> None:
        self._memory = memory

    def read(self) -> Sequence[MemoryReading]:
        """Free and total bytes."""
        free, total = self._memory()
        return [MemoryReading(self.name, available=free, total=total)]
