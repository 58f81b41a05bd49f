"""Processes that are of no use without the one that started them: they end with it, however it ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

PARENT: Final = "FLEXQUANT_PARENT_PID"
"""Environment variable that names the process to end with."""
PR_SET_PDEATHSIG: Final = 1
"""Of Linux: which signal a process gets when the thread that started it ends (man 2 prctl)."""


def ending_with_us(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that is started from our main thread, and calls `end_with_parent`."""
    return {**environment, PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Have the system kill this process when the one that `PARENT` names ends; nothing where it names none.

    On Linux alone; elsewhere a process notices that its parent is gone only when it starts.

    Raises:
        SystemExit: The parent has ended already, or the system refuses.
    """
    named = os.environ.get(PARENT)
    if named is None:
        return
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(named):  # it ended before the call
        sys.exit(f"the process that started this one, {named}, has ended already")
