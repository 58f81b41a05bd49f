"""Tensors of checkpoints and arenas for torch; only who computes with torch imports this."""

from typing import Final

import torch
from torch import Tensor

from flexquant.engine.errors import CheckpointError
from flexquant.engine.memory.arena import Arena
from flexquant.engine.tensor_index import TensorIndex, read_into

_DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def torch_dtype(name: str) -> torch.dtype:
    """The torch type for a safetensors type name such as "F16".

    Raises:
        CheckpointError: The type is not one that we read.
    """
    try:
        return _DTYPES[name]
    except KeyError:
        raise CheckpointError(f"dtype {name!r} is not supported; supported: {', '.join(_DTYPES)}") from None


def read_tensor(index: TensorIndex, name: str) -> Tensor:
    """An own copy of a tensor, in its stored type and shape.

    Raises:
        CheckpointError: The tensor is missing, its file is shorter than its header says, or cannot be read.
    """
    entry = index[name]
    # Torch's own memory is aligned; the last bits of a matrix product may depend on that.
    tensor = torch.empty(entry.shape, dtype=torch_dtype(entry.dtype))
    read_into(entry, tensor.view(-1).view(torch.uint8).numpy().data)
    return tensor


def arena_tensor(arena: Arena) -> Tensor:
    """All bytes of an arena as uint8 [mapped_bytes] over the same memory: a view, see `Arena`."""
    return torch.from_numpy(arena.array())
