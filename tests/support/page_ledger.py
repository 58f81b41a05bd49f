"""Memory of KV pages that is counted: what was handed out and has not come back."""

import numpy as np
import numpy.typing as npt


class CountedMemory:
    """Page memory that tells its ledger of its end."""

    def __init__(self, nbytes: int, ledger: "Ledger") -> None:
        self.mapped_bytes = nbytes
        self._data = np.zeros(nbytes, np.uint8)
        self._ledger = ledger

    @property
    def address(self) -> int:
        return self._data.ctypes.data

    def array(self) -> npt.NDArray[np.uint8]:
        return self._data

    def release(self) -> None:
        self._ledger.live.remove(self)  # ValueError if released twice


class Ledger:
    """Allocates counted memory up to a limit."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.live: list[CountedMemory] = []
        self.limit = limit

    def allocate(self, nbytes: int) -> CountedMemory:
        if len(self.live) >= self.limit:
            raise MemoryError("the test's machine is full")
        self.live.append(CountedMemory(nbytes, self))
        return self.live[-1]
