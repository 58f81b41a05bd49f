"""The tensors of a checkpoint folder, found by the headers of its safetensors files.

Format: https://huggingface.co/docs/safetensors, "Format". An index file beside the shards is ignored, because the
one that quantizers copy along describes files that are not there any more.
"""

import json
import math
import os
import reprlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from flexquant.engine.errors import CheckpointError
from flexquant.engine.float_types import BITS, as_float32

HEADER_LIMIT: Final = 100_000_000
"""Bytes; the format's own limit for a header."""

ITEM_BYTES: Final = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""The types that we read, as safetensors spells them."""

_LARGEST_GAP: Final = 16 << 10
"""Bytes between two rows that are read along rather than asked for around them."""
_ROWS_AT_ONCE: Final = 256
"""Each takes two of the 1,024 pieces that the system fills in one call."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `nbytes` bytes from absolute `offset` of `file` on; `dtype` as safetensors spells it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    stride: int | None = None
    """Bytes from one row to the next, for some columns of a matrix; None for a tensor that is in one piece."""

    @property
    def end(self) -> int:
        """Position in the file behind its last byte."""
        if self.stride is None:
            return self.offset + self.nbytes
        return self.offset + (self.shape[0] - 1) * self.stride + self.nbytes // self.shape[0]

    def columns(self, first: int, last: int) -> "TensorEntry":
        """Columns [first, last) of a matrix, or elements of a vector, that is in one piece: the rows become shorter."""
        *rows, width = self.shape
        row_bytes = self.nbytes // math.prod(rows)
        item = row_bytes // width
        return replace(
            self,
            shape=(*rows, last - first),
            offset=self.offset + first * item,
            nbytes=math.prod(rows) * (last - first) * item,
            stride=row_bytes if rows and last - first < width else None,
        )

    def rows(self, name: str, first: int, last: int) -> "TensorEntry":
        """Rows [first, last) of a matrix that is in one piece, as a tensor of that name."""
        row_bytes = self.nbytes // self.shape[0]
        return replace(
            self,
            name=name,
            shape=(last - first, *self.shape[1:]),
            offset=self.offset + first * row_bytes,
            nbytes=(last - first) * row_bytes,
        )


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

    def replacing(self, parts: Mapping[str, Iterable[TensorEntry]]) -> "TensorIndex":
        """The same tensors, but in place of each named one those that are given for it."""
        kept = {name: entry for name, entry in self._entries.items() if name not in parts}
        return TensorIndex(self.folder, kept | {entry.name: entry for of_one in parts.values() for entry in of_one})

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._entries)

    def content(self, name: str) -> npt.NDArray[np.uint8]:
        """A copy of a tensor's bytes.

        Raises:
            CheckpointError: The tensor is missing, its file is shorter than its header says, or cannot be read.
        """
        entry = self[name]
        content = np.empty(entry.nbytes, np.uint8)
        read_into(entry, content.data)
        return content

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """A copy of a tensor of type F16, BF16 or F32, as float32.

        Raises:
            CheckpointError: As `content`; or it has another type.
        """
        entry = self[name]
        if entry.dtype not in BITS:
            raise CheckpointError(f"{entry.file}: tensor {name} is {entry.dtype}; expected {', '.join(BITS)}")
        return as_float32(self.content(name).view(BITS[entry.dtype]).reshape(entry.shape), entry.dtype)


def read_into(entry: TensorEntry, buffer: memoryview, start: int = 0) -> None:
    """Fill `buffer` (contiguous) with the tensor's bytes from `start` on.

    Of some columns of a matrix, what lies between their rows stays on disk, unless it is so little that asking for
    every row would cost more.

    Raises:
        CheckpointError: The file is shorter than its header said, or cannot be read.
    """
    try:
        descriptor = os.open(entry.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot be read: {error.strerror}") from error
    try:
        if entry.stride is None:
            _read(descriptor, entry, buffer, entry.offset + start)
        else:
            _read_rows(descriptor, entry, buffer, start, entry.stride)
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read(descriptor: int, entry: TensorEntry, buffer: memoryview, position: int) -> None:
    """Fill `buffer` from that position of the file on."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], position + done)
        if count == 0:
            raise CheckpointError(f"{entry.file}: ends within tensor {entry.name}; the file is truncated")
        done += count


def _read_rows(descriptor: int, entry: TensorEntry, buffer: memoryview, start: int, stride: int) -> None:
    """Fill `buffer` with what lies row by row, `stride` bytes apart."""
    row_bytes = entry.nbytes // entry.shape[0]
    at_once = _ROWS_AT_ONCE if stride - row_bytes <= _LARGEST_GAP else 1
    skipped = memoryview(bytearray(stride - row_bytes if at_once > 1 else 0))
    rows: list[tuple[memoryview, int]] = []
    done = 0
    while done < len(buffer):
        row, column = divmod(start + done, row_bytes)
        piece = buffer[done : done + row_bytes - column]
        rows.append((piece, entry.offset + row * stride + column))
        done += len(piece)
        if len(rows) == at_once or done == len(buffer):
            first, position = rows[0]
            pieces = [first]
            for following, _ in rows[1:]:
                pieces += [skipped, following]
            if os.preadv(descriptor, pieces, position) < sum(map(len, pieces)):  # the system's right, if not its habit
                for piece, position in rows:
                    _read(descriptor, entry, piece, position)
            rows.clear()


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
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not a JSON object")
    entries = [
        _entry(file, name, found, start=8 + length, size=size)
        for name, found in header.items()
        if name != "__metadata__"
    ]
    for before, after in pairwise(sorted(entries, key=lambda entry: (entry.offset, entry.nbytes))):
        if after.offset < before.offset + before.nbytes:
            raise CheckpointError(f"{file}: tensors {before.name} and {after.name} overlap")
    return entries


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; ValueError if a name is no Unicode or there twice, where json lets both pass."""
    found: dict[str, object] = {}
    for name, value in pairs:
        name.encode()  # UnicodeEncodeError is a ValueError too
        if name in found:
            raise ValueError(f"{name} is there twice")
        found[name] = value
    return found


def _entry(file: Path, name: str, found: object, *, start: int, size: int) -> TensorEntry:
    """One tensor of the header, with shape, type and offsets that agree.

    `start` is where the data begins in the file, `size` the file's length, both in bytes.
    """
    where = f"{file}: tensor {name}"
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: its header entry is not an object")
    dtype, shape, offsets = found.get("dtype"), found.get("shape"), found.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{where}: dtype {reprlib.repr(dtype)} is not supported; supported: {', '.join(ITEM_BYTES)}"
        )
    if not _are_counts(shape) or math.prod(filter(None, shape)) >= 2**63:
        raise CheckpointError(f"{where}: shape {reprlib.repr(shape)} is not a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets {reprlib.repr(offsets)} are not two ascending positions")
    begin, end = offsets
    if start + end > size:
        raise CheckpointError(
            f"{where} ends at byte {start + end}, the file has {size}; it is truncated",
            hint="Download or build it again.",
        )
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise CheckpointError(
            f"{where}: shape {reprlib.repr(shape)} of {dtype} does not take the {end - begin} bytes that are there"
        )
    return TensorEntry(name, dtype, tuple(shape), file, start + begin, end - begin)


def _are_counts(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers that fit 63 bits and are not negative."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
