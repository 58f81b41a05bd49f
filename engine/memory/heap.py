"""The C library's heap keeps freed memory for later; this gives it back."""

import ctypes
import sys


def trim_heap() -> None:
    """Give the whole free pages of the heap back to the system: milliseconds.

    glibc's `malloc_trim`. Other C libraries have no such call and return freed pages by themselves, in their own time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # musl has none
        libc.malloc_trim(ctypes.c_size_t(0))
