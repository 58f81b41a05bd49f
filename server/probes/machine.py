"""A small machine made of a number and a few processes, for trying out pressure without causing any."""

from collections.abc import Callable, Iterable, Sequence

from flexquant.engine.memory.process import anonymous_bytes
from flexquant.server.controller.sample import MemoryReading


class MachineProbe:
    """Acts as if the machine had `memory` bytes, shared by this daemon and the processes `pids` alone.

    The bytes are real: every process's private (anonymous) memory. A process that has ended uses none.

    Args:
        memory: Bytes of the machine.
        pids: The other processes.
        used: Gives a process's private bytes; None stands for this process.
    """

    name = "machine"

    def __init__(self, memory: int, pids: Iterable[int], used: Callable[[int | None], int] = anonymous_bytes) -> None:
        self._memory = memory
        self._pids = tuple(pids)
        self._used = used

    def read(self) -> Sequence[MemoryReading]:
        """Bytes that none of the processes uses; negative when they use more than there is."""
        used = self._used(None) + sum(self._of_other(pid) for pid in self._pids)
        return [MemoryReading(self.name, available=self._memory - used, total=self._memory)]

    def _of_other(self, pid: int) -> int:
        try:
            return self._used(pid)
        except ProcessLookupError:
            return 0
