"""A real process that takes and gives back memory on command: other programs, for tests of pressure.

    with Hog(limit=1 << 30) as hog:
        hog.take(256 << 20, per_second=1 << 30)
        hog.give_back()

It speaks over pipes ("+268435456@1073741824", "-all", and answers with the bytes that it holds), is the first to go
when memory runs out, cannot grow beyond its limit, and dies with its parent or after a hard timeout.
"""

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PAGE: Final = 4096
PIECE: Final = 1 << 20
"""Bytes that are touched at once; the rate is kept between pieces."""
OVERHEAD: Final = 256 << 20
"""Address space that the interpreter itself needs."""
PR_SET_PDEATHSIG: Final = 1


class Hog:
    """Starts the process; leaving the context ends it.

    Args:
        limit: Most bytes that it may hold.
        seconds: Hard timeout of the process.
    """

    def __init__(self, limit: int, seconds: int = 300) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(limit + OVERHEAD), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def take(self, nbytes: int, per_second: int) -> int:
        """Touch `nbytes` more at so many bytes per second; returns the bytes held."""
        return self._say(f"+{nbytes}@{per_second}")

    def give_back(self) -> int:
        """Unmap everything; returns the bytes held: 0."""
        return self._say("-all")

    def _say(self, command: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._listen()

    def _listen(self) -> int:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the hog ended with exit code {self._process.wait()}")
        return int(answer)


def _restrain(address_space: int, seconds: int) -> None:
    """Make the process harmless to everything else on the machine."""
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            sys.exit("the parent has already ended")


def _take(held: list[mmap.mmap], nbytes: int, per_second: int) -> None:
    began = time.monotonic()
    for start in range(0, nbytes, PIECE):
        piece = mmap.mmap(-1, min(PIECE, nbytes - start), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with memoryview(piece) as view:
            pages = view[::PAGE]
            pages[:] = b"\1" * len(pages)
            pages.release()
        held.append(piece)
        time.sleep(max(0.0, began + (start + len(piece)) / per_second - time.monotonic()))


def _serve() -> None:
    _restrain(int(sys.argv[1]), int(sys.argv[2]))
    held: list[mmap.mmap] = []
    while True:
        sys.stdout.write(f"{sum(map(len, held))}\n")
        sys.stdout.flush()
        command = sys.stdin.readline().strip()
        if command == "-all":
            while held:
                held.pop().close()
        elif command.startswith("+"):
            nbytes, per_second = command[1:].split("@")
            _take(held, int(nbytes), int(per_second))
        else:
            return


if __name__ == "__main__":
    _serve()
