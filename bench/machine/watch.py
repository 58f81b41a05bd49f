"""Memory of processes as seen from outside, many times a second."""

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from bench.machine.series import Look

_FIELD: Final = re.compile(rb"^(RssAnon|RssFile):\s+(\d+) kB", re.MULTILINE)
_BYTES: Final = 4096
"""More than a process's status file has."""


class ProcessMemory:
    """Reads a process's resident memory from /proc; cheap enough for hundreds of times a second.

    Args:
        pid: Of the process; the file stays open, so that a number used again is never mistaken for it.
    """

    def __init__(self, pid: int) -> None:
        self._file = -1
        self._file = os.open(f"/proc/{pid}/status", os.O_RDONLY)

    def read(self) -> tuple[int, int]:
        """Bytes of resident anonymous memory and of resident file pages; 0 of each after the process has ended."""
        try:
            found = dict(_FIELD.findall(os.pread(self._file, _BYTES, 0)))
        except ProcessLookupError:
            found = {}
        return 1024 * int(found.get(b"RssAnon", 0)), 1024 * int(found.get(b"RssFile", 0))

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


class Processes:
    """The anonymous memory of some processes.

    Args:
        pids: Of the processes.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._memories = [ProcessMemory(pid) for pid in pids]

    def __call__(self) -> tuple[int, ...]:
        """Bytes of each, in the order of `pids`."""
        return tuple(memory.read()[0] for memory in self._memories)


class Watch:
    """Looks at memory on a thread of its own while its context lasts.

    Args:
        measure: Bytes to note at a look.
        per_second: Looks per second that it aims at.
    """

    def __init__(self, measure: Callable[[], tuple[int, ...]], per_second: float) -> None:
        self._measure = measure
        self._period = 1 / per_second
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.looks: list[Look] = []
        self.seconds = 0.0
        """Processor time that looking has cost."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._enough.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period, time.monotonic())
            self.looks.append(Look(time.monotonic(), self._measure()))
        self.seconds = time.thread_time()
