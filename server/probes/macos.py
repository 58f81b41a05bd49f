"""The memory pressure level of macOS: what its own programs are told to act on."""

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Final

from flexquant.server.controller.sample import Level, StressReading

PRESSURE_LEVEL: Final = "kern.memorystatus_vm_pressure_level"
LEVELS: Final[dict[int, Level]] = {1: "normal", 2: "warn", 4: "critical"}


class MacosProbe:
    """The level, which the kernel keeps steady by thresholds that lie apart. Asking needs no rights and no events.

    Args:
        sysctl: Gives the integer of that name.
    """

    name = "macos"

    def __init__(self, sysctl: Callable[[str], int]) -> None:
        self._sysctl = sysctl

    def read(self) -> Sequence[StressReading]:
        """The level.

        Raises:
            ValueError: It is one that we do not know.
        """
        found = self._sysctl(PRESSURE_LEVEL)
        if found not in LEVELS:
            raise ValueError(f"{PRESSURE_LEVEL} is {found}; known are {', '.join(map(str, LEVELS))}")
        return [StressReading(self.name, level=LEVELS[found])]


def sysctl_integer(name: str) -> int:
    """A 32-bit value of the macOS kernel.

    Raises:
        OSError: The kernel has none of that name.
    """
    value = ctypes.c_int32()
    size = ctypes.c_size_t(ctypes.sizeof(value))
    library = ctypes.CDLL(None, use_errno=True)
    if library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return value.value
