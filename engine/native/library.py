"""The native library: found beside this file, checked, and given Python signatures."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Final

from flexquant.engine.errors import FlexQuantError

ABI_VERSION: Final = 5
"""What cpp/api.cpp calls kAbiVersion."""
FILE_NAME: Final = "libflexquant.so"

_int = ctypes.c_int
_long = ctypes.c_int64
_pointer = ctypes.c_void_p
_float = ctypes.c_float
_text = ctypes.c_char_p

_SIGNATURES: Final[dict[str, tuple[object, list[object]]]] = {
    "fq_abi_version": (_int, []),
    "fq_kernels": (_text, [_int]),
    "fq_chosen_kernels": (_text, []),
    "fq_choose_kernels": (_int, [_text]),
    "fq_set_threads": (None, [_int]),
    "fq_threads": (_int, []),
    "fq_repack_codes": (None, [_int, _pointer, _int, _int, _int, _pointer, _long]),
    "fq_repack_scales": (None, [_pointer, _int, _int, _int, _int, _pointer]),
    "fq_scale_tables": (None, [_pointer, _int, _float, _pointer]),
    "fq_invert_permutation": (_int, [_pointer, _int, _pointer]),
    "fq_place_plane": (None, [_pointer, _int, _long, _int, _int, _pointer]),
    "fq_table_scales": (None, [_pointer, _long, _int, _pointer]),
    "fq_dequantize": (None, [_pointer, _int, _int, _int, _pointer, _long]),
    "fq_scratch_bytes": (_long, [_pointer, _int, _long]),
    "fq_rounded_bytes": (_long, [_int, _int]),
    "fq_layer": (None, [_pointer, _pointer, _pointer, _int, _int, _pointer, _pointer, _pointer, _pointer]),
    "fq_head": (None, [_pointer, _pointer, _pointer, _int, _pointer, _pointer, _pointer]),
    "fq_linear": (None, [_pointer, _pointer, _int, _int, _pointer, _pointer]),
    "fq_rms_norm": (None, [_pointer, _pointer, _int, _int, _float, _pointer]),
    "fq_swiglu": (None, [_pointer, _pointer, _int, _int, _pointer]),
    "fq_rotate": (None, [_pointer, _pointer, _pointer, _int, _int, _int, _int]),
    "fq_attention": (None, [_pointer, _pointer, _int, _pointer, _pointer, _pointer, _pointer]),
    "fq_read": (ctypes.c_uint64, [_pointer, _long]),
}


class NativeUnavailableError(FlexQuantError):
    """The native library is not there or does not fit this version."""


@cache
def load() -> ctypes.CDLL:
    """The library. Calls into it release the GIL.

    Raises:
        NativeUnavailableError: It was not built, cannot be loaded, or is of another version; the message says which.
    """
    path = Path(__file__).parent / FILE_NAME
    hint = "Install FlexQuant again on a machine with a C++17 compiler (g++ or clang++)."
    if not path.exists():
        raise NativeUnavailableError(f"{FILE_NAME} was not built when FlexQuant was installed", hint=hint)
    try:
        library = ctypes.CDLL(str(path))
        library.fq_abi_version.restype = _int
        found = library.fq_abi_version()
        if found != ABI_VERSION:
            raise NativeUnavailableError(f"{path} is of version {found}, this is {ABI_VERSION}", hint=hint)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeUnavailableError(f"{path} cannot be used: {error}", hint=hint) from error
    return library


def kernel_names() -> list[str]:
    """Names of the instruction sets that this machine runs, the best one first.

    Raises:
        NativeUnavailableError: As `load`.
    """
    library = load()
    names: list[str] = []
    while name := library.fq_kernels(len(names)):
        names.append(name.decode())
    return names


def chosen_kernels() -> str:
    """Name of the instruction set in use."""
    return str(load().fq_chosen_kernels().decode())


def choose_kernels(name: str) -> None:
    """Use this instruction set from now on, in the whole process.

    Raises:
        ValueError: This machine has none of that name.
    """
    if load().fq_choose_kernels(name.encode()) != 0:
        raise ValueError(f"kernels {name!r} do not run here; these do: {', '.join(kernel_names())}")


def set_threads(count: int) -> None:
    """Compute with so many threads from now on, the calling one included; not while something is computed."""
    if count < 1:
        raise ValueError(f"{count} threads: at least one is needed")
    load().fq_set_threads(count)


def threads() -> int:
    """Threads that compute."""
    return int(load().fq_threads())
