"""RAMP as it is, on a simulated machine: `python -m bench.ramp_on_machine MEMORY PID ARGUMENTS...`.

Needs `ramp-llm`, and nothing of ours. RAMP asks psutil for the memory of the machine. Here the answer is MEMORY bytes,
less what RAMP, the server that it runs, and process PID hold. Mapped file pages count, as in RAMP's own budgets.
"""

import importlib
import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psutil


@dataclass(frozen=True)
class VirtualMemory:
    """What RAMP reads of `psutil.virtual_memory()`."""

    available: int
    total: int
    percent: float


def machine(memory: int, pid: int) -> VirtualMemory:
    """The machine as it is now.

    Args:
        memory: Its bytes.
        pid: Of the process that shares it with this one and its children.
    """
    own = psutil.Process()
    used = 0
    for process in (own, psutil.Process(pid), *own.children(recursive=True)):
        try:
            used += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return VirtualMemory(available=max(0, memory - used), total=memory, percent=100 * used / memory)


def main() -> int:
    """Run RAMP; returns its exit code."""
    memory, pid, *arguments = sys.argv[1:]
    program: Any = importlib.import_module("ramp.__main__")
    sys.argv = ["ramp", *arguments]
    with patch.object(psutil, "virtual_memory", lambda: machine(int(memory), int(pid))):
        return int(program.main() or 0)


if __name__ == "__main__":
    sys.exit(main())
