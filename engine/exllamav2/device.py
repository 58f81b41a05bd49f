"""A real card's memory: taken from the CUDA driver and given back to it, never kept by an allocator in between."""

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from flexquant.engine.exllamav2.card import CardMemory, Rows

_OUT_OF_MEMORY: Final = 2  # CUDA_ERROR_OUT_OF_MEMORY


class DriverMemory:
    """Implements `CardMemory` by `cuMemAlloc`. Freed when it is dropped, too."""

    def __init__(self, driver: ctypes.CDLL, nbytes: int, account: Callable[[int], None]) -> None:
        self._driver = driver
        self._account = account
        self._nbytes = 0
        pointer = ctypes.c_uint64()
        code = driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(nbytes))
        if code == _OUT_OF_MEMORY:
            raise MemoryError(f"the card has no {nbytes} bytes")
        if code != 0:
            raise RuntimeError(f"cuMemAlloc of {nbytes} bytes failed with CUDA error {code}")
        self._address = pointer.value
        self._nbytes = nbytes
        account(nbytes)

    @property
    def nbytes(self) -> int:
        """See `CardMemory`."""
        return self._nbytes

    @property
    def address(self) -> int:
        """See `CardMemory`."""
        if self._nbytes == 0:
            raise RuntimeError("the device memory was released")
        return self._address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """How torch sees it without a copy: uint8 [nbytes]."""
        return {
            "data": (self.address, False),
            "shape": (self._nbytes,),
            "typestr": "|u1",
            "strides": None,
            "version": 3,
        }

    def release(self) -> None:
        """See `CardMemory`."""
        if self._nbytes == 0:
            return
        self._account(-self._nbytes)
        self._nbytes = 0
        code = self._driver.cuMemFree_v2(ctypes.c_uint64(self._address))
        if code != 0:
            raise RuntimeError(f"cuMemFree failed with CUDA error {code}")

    def __del__(self) -> None:
        if self._nbytes:
            self._account(-self._nbytes)
            self._nbytes = 0
            self._driver.cuMemFree_v2(ctypes.c_uint64(self._address))


class CudaCard:
    """Implements `Card`.

    Args:
        index: Which card, as CUDA counts.
    """

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self.device = torch.device("cuda", index)
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._taken = 0
        self._lock = threading.Lock()
        self._uploads = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # as torch has it

    @property
    def name(self) -> str:
        """See `Card`."""
        return str(torch.cuda.get_device_name(self.device))

    @property
    def integrated(self) -> bool:
        """See `Card`."""
        return bool(torch.cuda.get_device_properties(self.device).is_integrated)

    def available(self) -> tuple[int, int]:
        """See `Card`."""
        free, total = torch.cuda.mem_get_info(self.device)
        return int(free), int(total)

    def taken(self) -> int:
        """See `Card`: weights, keys and values, and what torch's allocator holds for passes."""
        return self._taken + torch.cuda.memory_reserved(self.device)

    def allocate(self, nbytes: int) -> DriverMemory:
        """See `Card`. What torch has cached and does not use is given back first, if it stands in the way."""
        torch.cuda.set_device(self.device)
        torch.cuda.mem_get_info(self.device)  # makes torch's context this thread's, which the driver's calls need
        try:
            return DriverMemory(self._driver, nbytes, self._account)
        except MemoryError:
            torch.cuda.empty_cache()
            return DriverMemory(self._driver, nbytes, self._account)

    def staging(self, nbytes: int) -> memoryview:
        """See `Card`."""
        try:
            pinned = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:  # torch has no type of its own for this
            raise MemoryError(f"no {nbytes} bytes of page-locked memory: {error}") from error
        return pinned.numpy().data

    def upload(self, source: memoryview, target: CardMemory) -> None:
        """See `Card`."""
        host = torch.from_numpy(np.frombuffer(source, np.uint8))
        with torch.cuda.stream(self._uploads):
            on_card(target, self.device)[: len(source)].copy_(host, non_blocking=True)
        self._uploads.synchronize()

    def copy(self, source: Rows, target: Rows, *, count: int, nbytes: int) -> None:
        """See `Card`."""
        self._rows(target, count, nbytes).copy_(self._rows(source, count, nbytes))
        torch.cuda.current_stream(self.device).synchronize()

    def _account(self, nbytes: int) -> None:
        with self._lock:
            self._taken += nbytes

    def _rows(self, rows: Rows, count: int, nbytes: int) -> torch.Tensor:
        whole = on_card(rows.memory, self.device)
        return whole.as_strided((count, nbytes), (rows.pitch, 1), rows.start)


def on_card(memory: CardMemory, device: torch.device) -> torch.Tensor:
    """Device memory as torch sees it: uint8 [nbytes], the same memory. Make it per call; never store it."""
    return torch.as_tensor(memory, device=device)
