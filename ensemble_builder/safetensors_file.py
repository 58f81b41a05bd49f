"""Writing safetensors files. Format: https://huggingface.co/docs/safetensors, "Format"."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.tensor_index import TensorEntry, read_into
from flexquant.engine.torch_tensors import torch_dtype
from flexquant.ensemble_builder.atomic_file import replacing

HEADER_MULTIPLE: Final = 8
"""Bytes; headers are padded with spaces, so that the tensors behind are aligned."""

_NAMES: Final = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int16: "I16",
}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor | TensorEntry]) -> None:
    """Write a safetensors file; the same tensors give the same bytes.

    Args:
        path: The file.
        tensors: By name: tensors in memory, or in other files, which are copied one at a time.

    Raises:
        CheckpointError: A tensor's file cannot be read.
        FlexQuantError: The file cannot be written.
    """
    # Wide types first: then every tensor is aligned to its own type, which mapping readers need.
    names = sorted(tensors, key=lambda name: -_dtype(tensors[name]).itemsize)
    header, end = {}, 0
    for name in names:
        dtype, shape = _dtype(tensors[name]), tuple(tensors[name].shape)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_MULTIPLE)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(_content(tensors[name]))


def _dtype(source: Tensor | TensorEntry) -> torch.dtype:
    return source.dtype if isinstance(source, Tensor) else torch_dtype(source.dtype)


def _content(source: Tensor | TensorEntry) -> memoryview:
    if isinstance(source, Tensor):
        return source.contiguous().reshape(-1).view(torch.uint8).numpy().data
    buffer = memoryview(bytearray(source.nbytes))
    read_into(source, buffer)
    return buffer
