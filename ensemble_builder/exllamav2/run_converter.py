"""The process that exllamav2's converter runs in: it ends with the builder, and says at once what it has to say.

    python -m flexquant.ensemble_builder.exllamav2.run_converter MODULE ARGUMENT...

The environment variable `FLEXQUANT_BUILDER_PID` names the process that it belongs to.
"""

import ctypes
import io
import os
import runpy
import signal
import sys
from typing import Final

PARENT: Final = "FLEXQUANT_BUILDER_PID"
PR_SET_PDEATHSIG: Final = 1
"""Of Linux: which signal a process gets when the thread that started it ends (man 2 prctl)."""


def main() -> None:
    """Run a module as if it had been started with `python -m`."""
    die_with(int(os.environ[PARENT]))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The converter ends some errors with os._exit, which throws away what is still in a buffer.
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with(parent: int) -> None:
    """Make the system kill this process when `parent` ends, however it ends; on Linux, where the GPUs are.

    Args:
        parent: Process that started this one, from its main thread.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the call
        sys.exit(f"the builder, process {parent}, has ended already")


if __name__ == "__main__":
    main()
