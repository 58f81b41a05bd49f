"""Memory of a graphics card that has its own, for weights that lie there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexquant.server.controller.sample import MemoryReading


@dataclass(frozen=True, slots=True)
class Device:
    """The CUDA device that holds the weights.

    Args:
        memory: Gives its free and total bytes, of all programs together (`cudaMemGetInfo`).
        integrated: Whether it shares the memory of the processor; None where the driver does not say.
    """

    memory: Callable[[], tuple[int, int]]
    integrated: bool | None = None


class CudaProbe:
    """Free memory of the device.

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


def has_own_memory(device: Device, host_total: int) -> bool:
    """Whether the device is a domain of its own.

    Where processor and device share one memory (Jetson, GB10), the device calls everything used that the file cache
    holds: the host's estimate is the right one there. A driver that does not say is judged by size: shared memory
    is as large as the host's, to a tenth.
    """
    if device.integrated is not None:
        return not device.integrated
    _, total = device.memory()
    return abs(total - host_total) * 10 > host_total
