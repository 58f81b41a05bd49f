"""A layer as it lies in device memory when exllamav2 takes it over: its tensors one after the other.

What exllamav2's own loader (0.3.2, `module.py`, `ext.py`) derives on every load is derived here while the layer is
read: the permutation beside its inverse, as 16-bit numbers, the map from rows to groups, and the scale's factor. One
difference is deliberate. exllamav2 takes the down projection's permutation away and puts the columns of gate and up in
its order instead, so these three belong together. Here every layer keeps its own permutation, which its kernels honour
just as well, and so each of them can be exchanged alone.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.tensor_index import read_into

ALIGNMENT: Final = 256
"""Bytes; what the driver's own allocations have."""

_SCALE_FACTOR: Final = np.float32(1 / 256)
"""The kernels multiply scales by the square of 1 to 16."""


class Part(NamedTuple):
    """One tensor: where it lies from the layer's start."""

    name: str
    dtype: str
    """numpy's name."""
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Form:
    """Where the tensors of a layer lie.

    Args:
        spec: The layer.

    Raises:
        CheckpointError: exllamav2's kernels cannot run it.
    """

    def __init__(self, spec: Exl2Spec) -> None:
        _check_rules(spec)
        self.spec = spec
        self.parts: dict[str, Part] = {}
        offset = 0
        for name, dtype, shape in _tensors(spec):
            part = self.parts[name] = Part(name, dtype, shape, offset)
            offset += -(-part.nbytes // ALIGNMENT) * ALIGNMENT
        self.size_bytes = offset

    def fill(self, buffer: memoryview) -> None:
        """Read the layer from its files into host memory of `size_bytes` bytes.

        Raises:
            CheckpointError: A file is missing, truncated or cannot be read.
        """
        for name, content in self._derived().items():
            self.view(buffer, name)[...] = content
        for name in ("q_weight", "q_scale", "q_groups"):
            part = self.parts[name]
            read_into(self.spec.entries[name], buffer[part.offset : part.offset + part.nbytes])

    def view(self, buffer: memoryview, name: str) -> npt.NDArray[np.generic]:
        """One tensor of a layer that lies in host memory."""
        part = self.parts[name]
        flat = np.frombuffer(buffer[part.offset : part.offset + part.nbytes], np.dtype(part.dtype))
        return flat.reshape(part.shape)

    def _derived(self) -> dict[str, npt.NDArray[np.generic]]:
        """The tensors that are not on disk as they are needed."""
        inverse = self._read("q_invperm", np.int32)
        found: dict[str, npt.NDArray[np.generic]] = {
            "q_perm": np.argsort(inverse).astype(np.uint16).view(np.int16),
            "q_invperm": inverse.astype(np.uint16).view(np.int16),
            "q_group_map": group_map(self.spec).view(np.int16),
            # In this order exllamav2 rounds, too: to half precision after the factor.
            "q_scale_max": (self._read("q_scale_max", np.float16).astype(np.float32) * _SCALE_FACTOR).astype(
                np.float16
            ),
        }
        if "bias" in self.parts:
            bias = np.zeros(self.spec.padded_out, np.float16)
            given = self._read("bias", np.float16)
            bias[: len(given)] = given
            found["bias"] = bias
        return found

    def _read(self, name: str, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
        entry = self.spec.entries[name]
        content = np.empty(entry.nbytes, np.uint8)
        read_into(entry, content.data)
        return content.view(dtype)


def group_map(spec: Exl2Spec) -> npt.NDArray[np.uint16]:
    """For every packed row its group and how many rows of that are left, itself included: [2 * in_features]."""
    pairs = np.empty((spec.in_features, 2), np.uint16)
    for run in spec.runs:
        rows = slice(run.first_row, run.first_row + run.rows)
        pairs[rows, 0] = np.repeat(np.arange(run.first_group, run.first_group + run.groups), run.rows_per_group)
        pairs[rows, 1] = np.tile(np.arange(run.rows_per_group, 0, -1), run.groups)
    return pairs.reshape(-1)


def _tensors(spec: Exl2Spec) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    entries, inputs = spec.entries, spec.in_features
    yield "q_weight", "int32", entries["q_weight"].shape
    yield "q_scale", "int32", entries["q_scale"].shape
    yield "q_scale_max", "float16", entries["q_scale_max"].shape
    yield "q_groups", "int16", entries["q_groups"].shape
    yield "q_perm", "int16", (inputs,)
    yield "q_invperm", "int16", (inputs,)
    yield "q_group_map", "int16", (2 * inputs,)
    if "bias" in entries:
        yield "bias", "float16", (spec.padded_out,)


def _check_rules(spec: Exl2Spec) -> None:
    """What the kernels take for granted and never check."""
    where = f"{spec.entries['q_groups'].file}: {spec.key}"
    if spec.in_features > np.iinfo(np.uint16).max + 1:
        raise CheckpointError(f"{where}: has {spec.in_features} inputs; exllamav2 runs layers of at most 65,536")
    widths = [run.bits for run in spec.runs]
    if widths != sorted(widths, reverse=True):
        raise CheckpointError(
            f"{where}: its groups have {', '.join(map(str, widths))} bits; exllamav2 needs them in descending order"
        )
    for bits in set(widths):
        rows = sum(run.rows for run in spec.runs if run.bits == bits)
        multiple = 16 if bits == 2 else 32
        if rows % multiple:
            raise CheckpointError(f"{where}: has {rows} rows of {bits} bits; exllamav2 needs a multiple of {multiple}")
