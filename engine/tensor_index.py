"""The tensors of a checkpoint folder, found by the headers of its safetensors files.

Format: https://huggingface.co/docs/safetensors, "Format". An index file beside the shards is ignored, because the
one that quantizers copy along describes files that are not there any more.
"""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch

from flexquant.engine.errors import CheckpointError

HEADER_LIMIT: Final = 100_000_000
"""Bytes; the format's own limit for a header."""

_DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
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
        raise CheckpointError(f"dtype {name} is not supported; supported: {', '.join(_DTYPES)}") from None


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `nbytes` bytes at absolute `offset` of `file`; `dtype` as safetensors spells it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


class TensorIndex:
    """All tensors of a folder's `*.safetensors` files. Nothing but headers is read until a tensor is asked for."""

    def __init__(self, folder: Path, entries: dict[str, TensorEntry]) -> None:
        self.folder = folder
        self._entries = entries

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the headers of all safetensors files of `folder`.

        Raises:
            CheckpointError: There is none, or one is truncated or contradicts itself; the message names the file.
        """
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if not files:
            raise CheckpointError(f"{folder}: no *.safetensors file there", hint="Is this a model folder?")
        entries: dict[str, TensorEntry] = {}
        for file in files:
            for entry in _read_header(file):
                if entry.name in entries:
                    raise CheckpointError(f"{file}: tensor {entry.name} is also in {entries[entry.name].file.name}")
                entries[entry.name] = entry
        return cls(folder, entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> TensorEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing") from None

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._entries)

    def read(self, name: str) -> torch.Tensor:
        """An own copy of a tensor, in its stored type and shape.

        Raises:
            CheckpointError: The tensor is missing, its file is shorter than its header says, or cannot be read.
        """
        entry = self[name]
        data = bytearray(entry.nbytes)
        read_into(entry, memoryview(data))
        if not data:
            return torch.empty(entry.shape, dtype=torch_dtype(entry.dtype))
        return torch.frombuffer(data, dtype=torch_dtype(entry.dtype)).reshape(entry.shape)


def read_into(entry: TensorEntry, buffer: memoryview) -> None:
    """Read exactly the tensor's bytes into `buffer` (contiguous, `entry.nbytes` long).

    Raises:
        CheckpointError: The file is missing, shorter than its header says, or cannot be read.
    """
    try:
        descriptor = os.open(entry.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot be read: {error.strerror}") from error
    try:
        done = 0
        while done < entry.nbytes:
            count = os.preadv(descriptor, [buffer[done : entry.nbytes]], entry.offset + done)
            if count == 0:
                raise CheckpointError(f"{entry.file}: ends within tensor {entry.name}; the file is truncated")
            done += count
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read_header(file: Path) -> list[TensorEntry]:
    """Entries of one file, checked against the file's size and against each other."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
            if length is None or length > min(HEADER_LIMIT, size - 8):
                raise CheckpointError(f"{file}: not a safetensors file, or truncated within its header")
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not a JSON object")
    return [
        _entry(file, name, found, start=8 + length, size=size)
        for name, found in header.items()
        if name != "__metadata__"
    ]


def _entry(file: Path, name: str, found: object, *, start: int, size: int) -> TensorEntry:
    """One tensor of the header, with shape, type and offsets that agree."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: tensor {name}: its header entry is not an object")
    dtype, shape, offsets = found.get("dtype"), found.get("shape"), found.get("data_offsets")
    if not (isinstance(shape, list) and all(type(extent) is int and extent >= 0 for extent in shape)):
        raise CheckpointError(f"{file}: tensor {name}: shape {shape!r} is not a list of sizes")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise CheckpointError(f"{file}: tensor {name}: data_offsets {offsets!r} are not two numbers")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(f"{file}: tensor {name}: dtype {dtype!r} is not supported")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise CheckpointError(f"{file}: tensor {name}: data_offsets {offsets} are not ascending")
    if start + end > size:
        raise CheckpointError(
            f"{file}: tensor {name} ends at byte {start + end}, the file has {size}; it is truncated",
            hint="Download or build it again.",
        )
    if math.prod(shape) * _DTYPES[dtype].itemsize != end - begin:
        raise CheckpointError(f"{file}: tensor {name}: shape {shape} of {dtype} does not take {end - begin} bytes")
    return TensorEntry(name, dtype, tuple(shape), file, start + begin, end - begin)
