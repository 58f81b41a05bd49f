"""What the process really holds, to check the registry against."""

import sys
from pathlib import Path

import psutil

_KIB = 1024


def anonymous_bytes(pid: int | None = None) -> int:
    """Resident anonymous memory of a process in bytes; of this one without `pid`.

    Linux: RssAnon of /proc/PID/status, exact and cheap. Elsewhere: psutil's unique set size, which also holds private
    file pages and takes milliseconds.

    Raises:
        ProcessLookupError: There is no such process.
    """
    if sys.platform != "linux":
        try:
            return int(psutil.Process(pid).memory_full_info().uss)
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(str(error)) from error
    path = Path("/proc", "self" if pid is None else str(pid), "status")
    try:
        status = path.read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * _KIB
    raise ProcessLookupError(f"process {pid} has ended and holds no memory")
