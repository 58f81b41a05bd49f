"""The types of a checkpoint's unquantized weights, as float32. Numpy knows no bfloat16."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

BITS: Final = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32}
"""By safetensors' name of the type: an unsigned type of its size, in which its values can be read as they are."""


def as_float32(bits: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Values that were read as `BITS[dtype]`: a copy in float32, or for "F32" a view, of the same shape."""
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    wide = bits.astype(np.uint32)
    wide <<= 16  # in place: no second copy, and an array without dimensions stays one
    return wide.view(np.float32)
