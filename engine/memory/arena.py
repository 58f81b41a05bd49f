"""Anonymous memory mapped by us, so that giving it back really gives it back.

An allocator keeps freed blocks for itself; a mapping that we unmap is gone at once. Python's own `mmap` can neither
unmap a tail nor tell whether someone still looks at it, so this goes to libc directly.
"""

import ctypes
import errno
import mmap
import os
import sys
from typing import Final

import numpy as np
import numpy.typing as npt

PAGE_BYTES: Final = mmap.PAGESIZE
HUGE_PAGE_BYTES: Final = 2 * 1024 * 1024

_PROTECTION: Final = mmap.PROT_READ | mmap.PROT_WRITE
_FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
# Advice that only Linux knows.
_HUGE_PAGES: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)
_SMALL_PAGES: Final[int | None] = getattr(mmap, "MADV_NOHUGEPAGE", None)
_SPLIT_HUGE_PAGE: Final[int | None] = getattr(mmap, "MADV_FREE", None) if sys.platform == "linux" else None
_POPULATE_WRITE: Final[int | None] = 23 if sys.platform == "linux" else None  # since 5.14; Python does not name it
# Move pages and leave the place they came from mapped, but empty: MAYMOVE | FIXED | DONTUNMAP, since Linux 5.7.
_MOVE_PAGES: Final = 1 | 2 | 4

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
if sys.platform == "linux":
    _libc.mremap.restype = ctypes.c_void_p
    _libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


def page_rounded(nbytes: int) -> int:
    """`nbytes` rounded up to whole pages: what an arena of that payload maps."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


class Arena:
    """`nbytes` of zeroed anonymous memory, rounded up to whole pages.

    From 2 MiB on it starts 2 MiB-aligned and asks for huge pages; below it asks for none, so that the kernel never
    joins two arenas in one huge page and the bytes mapped are the bytes the process holds.

    `array` and `memory` return views that must die before `trim` or `release`: reading an unmapped page is a
    segmentation fault. Views are therefore made per call and never stored, and both methods refuse to run while a
    view is alive. An arena that is dropped gives its memory back. It has one owner at a time and no lock.

    Raises:
        MemoryError: The system has no room for the mapping.
        ValueError: `nbytes` is not positive.
    """

    def __init__(self, nbytes: int) -> None:
        if nbytes <= 0:
            raise ValueError(f"an arena needs at least one byte, not {nbytes}")
        self._length = page_rounded(nbytes)
        if self._length < HUGE_PAGE_BYTES:
            self._address = _map(self._length)
            _advise(self._address, self._length, _SMALL_PAGES)
        else:
            self._address = _map_aligned(self._length)
            _advise(self._address, self._length, _HUGE_PAGES)
        self._expose()

    @property
    def mapped_bytes(self) -> int:
        """Bytes mapped now; 0 after release."""
        return self._length

    @property
    def address(self) -> int:
        """Where the memory begins, for native code. Like a view, it is worth nothing after `trim` or `release`.

        Raises:
            RuntimeError: The arena was released.
        """
        self._mapped()
        return self._address

    @property
    def viewed(self) -> bool:
        """Whether an array or memoryview of this arena is alive."""
        return self._buffer is not None and sys.getrefcount(self._buffer) > self._unviewed

    def array(self) -> npt.NDArray[np.uint8]:
        """All bytes as uint8 [mapped_bytes] over the same memory. Make it per call; never store it."""
        return np.frombuffer(self.memory(), np.uint8)

    def memory(self) -> memoryview:
        """All bytes as a writable memoryview over the same memory. Make it per call; never store it."""
        return memoryview(self._mapped()).cast("B")

    def prefault(self) -> None:
        """Have every page of a new arena there, so that later writes take no page fault.

        Raises:
            MemoryError: The system has no memory for them.
        """
        self._mapped()
        code = _populate(self._address, self._length)
        if code == errno.ENOMEM:
            raise MemoryError(f"cannot have {self._length} bytes: {os.strerror(code)}")
        if code != 0:
            ctypes.memset(self._address, 0, self._length)

    def take(self, source: "Arena", offset: int, nbytes: int) -> None:
        """Put `nbytes` bytes of `source`, from `offset` on, at the beginning of this arena.

        Whole huge pages change places, which takes microseconds; the rest is copied. Nothing is allocated, and
        afterwards `source` holds neither what it held nor less memory than before. Where pages cannot be moved,
        everything is copied.

        Raises:
            ValueError: One of the arenas is too short.
        """
        if not 0 <= nbytes <= min(self.mapped_bytes, source.mapped_bytes - offset):
            raise ValueError(f"cannot take {nbytes} bytes at {offset} of {source.mapped_bytes} into {self._length}")
        target, origin = self.address, source.address + offset
        done = 0
        if target % HUGE_PAGE_BYTES == 0 == origin % HUGE_PAGE_BYTES and nbytes >= HUGE_PAGE_BYTES:
            done = _exchange_huge_pages(target, origin, nbytes // HUGE_PAGE_BYTES)
        ctypes.memmove(target + done, origin + done, nbytes - done)

    def trim(self, nbytes: int) -> None:
        """Keep the first `nbytes`, rounded up to whole pages, and unmap the rest.

        Raises:
            ValueError: `nbytes` is not positive or exceeds what is mapped.
            RuntimeError: A view is alive.
        """
        keep = page_rounded(nbytes)
        if not 0 < keep <= self._length:
            raise ValueError(f"cannot trim {self._length} mapped bytes to {nbytes}")
        self._conceal()
        if keep < self._length:
            _split_huge_page_at(self._address, keep, self._length)
            _unmap(self._address + keep, self._length - keep)
            self._length = keep
        self._expose()

    def release(self) -> None:
        """Unmap everything; the arena cannot be used again. Releasing twice is allowed.

        Raises:
            RuntimeError: A view is alive.
        """
        if self._buffer is None:
            return
        self._conceal()
        _unmap(self._address, self._length)
        self._length = 0

    def _mapped(self) -> "ctypes.Array[ctypes.c_ubyte]":
        if self._buffer is None:
            raise RuntimeError("the arena was released")
        return self._buffer

    def _expose(self) -> None:
        # Every view holds a reference to this one object, so its reference count tells whether views are alive.
        self._buffer: ctypes.Array[ctypes.c_ubyte] | None = (ctypes.c_ubyte * self._length).from_address(self._address)
        self._unviewed = sys.getrefcount(self._buffer)

    def _conceal(self) -> None:
        if self.viewed:
            raise RuntimeError("a view of the arena is alive; unmapping under it would crash the process")
        self._mapped()
        self._buffer = None

    def __del__(self) -> None:
        # A constructor that failed has no buffer; a view that outlives its arena keeps the mapping.
        if getattr(self, "_buffer", None) is not None and not self.viewed and not sys.is_finalizing():
            self.release()


def _map(length: int) -> int:
    address: int | None = _libc.mmap(None, length, _PROTECTION, _FLAGS, -1, 0)
    if address is None or address == _MAP_FAILED:
        raise MemoryError(f"cannot map {length} bytes: {os.strerror(ctypes.get_errno())}")
    return address


def _map_aligned(length: int) -> int:
    """Map one huge page more than needed and cut both ends."""
    start = _map(length + HUGE_PAGE_BYTES)
    aligned = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    if aligned > start:
        _unmap(start, aligned - start)
    behind = start + HUGE_PAGE_BYTES - aligned
    if behind:
        _unmap(aligned + length, behind)
    return aligned


def _exchange_huge_pages(first: int, second: int, count: int) -> int:
    """Let two ranges of so many huge pages change places.

    At every moment all addresses stay mapped: another thread's new mapping must find no hole that we fill later.

    Returns:
        Bytes done. Where moving fails, `second` still has what follows.
    """
    if sys.platform != "linux":
        return 0
    done = 0
    between = _map_aligned(HUGE_PAGE_BYTES)
    try:
        while done < count * HUGE_PAGE_BYTES:
            if not (_move_huge_page(first + done, between) and _move_huge_page(second + done, first + done)):
                break
            _move_huge_page(between, second + done)  # if not, `second` has fresh memory there as soon as it is written
            done += HUGE_PAGE_BYTES
    finally:
        _unmap(between, HUGE_PAGE_BYTES)
    return done


def _move_huge_page(source: int, target: int) -> bool:
    moved: int | None = _libc.mremap(source, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, _MOVE_PAGES, target)
    return moved == target


def _unmap(address: int, length: int) -> None:
    if _libc.munmap(address, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot unmap {length} bytes: {os.strerror(code)}")


def _advise(address: int, length: int, advice: int | None) -> None:
    """Advice changes speed, never meaning: a kernel that does not know it may refuse."""
    if advice is not None:
        _libc.madvise(address, length, advice)


def _populate(address: int, length: int) -> int:
    """Have the kernel make the pages; an errno other than 0 and ENOMEM: this one cannot."""
    if _POPULATE_WRITE is None:
        return errno.ENOSYS
    return 0 if _libc.madvise(address, length, _POPULATE_WRITE) == 0 else ctypes.get_errno()


def _split_huge_page_at(address: int, keep: int, length: int) -> None:
    """Split the huge page that a trim would cut in two.

    The kernel takes a huge page back as a whole: after unmapping a part, that part stays allocated until memory is
    short enough for the kernel to split the page by itself. MADV_FREE on a part of a huge page splits it at once.
    """
    boundary = min(length, -(-(address + keep) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES - address)
    if boundary > keep:
        _advise(address + keep, boundary - keep, _SPLIT_HUGE_PAGE)
