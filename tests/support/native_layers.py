"""EXL2 layers in the arena layout of the native kernels, and what their products must be."""

import ctypes
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexquant.engine.exl2.blocked_layout import LANES, BlockedLayout, repack, staging_bytes
from flexquant.engine.exl2.groups import runs
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.memory.arena import Arena
from flexquant.engine.native import library, structs
from flexquant.engine.native.layouts import ArenaLayout
from flexquant.engine.tensor_index import TensorEntry
from flexquant.engine.torch_tensors import arena_tensor
from support.checkpoints import DTYPES
from support.exl2_fixtures import Exl2Layer

Tensors = Mapping[str, NDArray[np.generic]]
"""The tensors of a layer by suffix."""

PLENTY = 1 << 20
_TILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_GUARD = 64
"""Values behind a result that nobody may write."""


def _kernels() -> list[str]:
    try:
        names: list[str] = library.kernel_names()
    except library.NativeUnavailableError:
        return []
    return names


KERNELS = _kernels()
"""What this machine runs, the best first; empty where the library was not built."""
needs_native = pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")
each_kernels = pytest.mark.parametrize("kernels", KERNELS)


@contextmanager
def using(kernels: str | None = None, threads: int | None = None) -> Iterator[None]:
    """Compute with these kernels and so many threads, and afterwards with those from before."""
    former = library.chosen_kernels(), library.threads()
    library.choose_kernels(kernels or former[0])
    library.set_threads(threads or former[1])
    try:
        yield
    finally:
        library.choose_kernels(former[0])
        library.set_threads(former[1])


def spec_of(tensors: Tensors, out_features: int) -> Exl2Spec:
    """The spec of a layer whose tensors are in no file."""
    entries = {
        suffix: TensorEntry(suffix, DTYPES[array.dtype.name], array.shape, Path("memory"), 0, array.nbytes)
        for suffix, array in tensors.items()
    }
    words, padded = tensors["q_weight"].shape
    inverse = tensors["q_invperm"]
    table = tensors["q_groups"].view(np.uint16).tolist()
    order = hashlib.blake2b(inverse.tobytes(), digest_size=16).digest()
    return Exl2Spec("layer", len(inverse), out_features, padded, runs(table, len(inverse), words), entries, order)


class NativeLayer:
    """A layer, repacked by the kernels that are in use now.

    Args:
        tensors: Its tensors by suffix.
        out_features: Outputs before padding.
        staging: Bytes that are brought at once while it is repacked; None for the least.
        fill: What the arena holds before, to see what repacking leaves alone.
    """

    def __init__(self, tensors: Tensors, out_features: int, *, staging: int | None = PLENTY, fill: int = 0xAA) -> None:
        self.spec = spec_of(tensors, out_features)
        self.layout = BlockedLayout(self.spec)
        self._arena = Arena(self.layout.size_bytes + _GUARD)
        arena_tensor(self._arena).fill_(fill)
        self._library = library.load()
        self._staging = staging_bytes(self.spec) if staging is None else staging
        self._staged = np.empty(0, dtype=np.uint8)
        self._bytes = {suffix: np.frombuffer(array.tobytes(), np.uint8) for suffix, array in tensors.items()}
        repack(self._library, self.layout, self._fetch, self._arena.address, self._staging)
        self._runs = self.layout.runs()
        self.matrix = self.layout.matrix(self._runs)
        self.layout.place(self.matrix, self._arena.address)

    @classmethod
    def of(cls, layer: Exl2Layer) -> "NativeLayer":
        return cls(layer.tensors, layer.out_features)

    @property
    def words(self) -> int:
        return self.layout.words

    def memory(self) -> Tensor:
        """A copy of the arena: the layer, and at least `_GUARD` bytes behind it."""
        return arena_tensor(self._arena).clone()

    def multiply(self, x: Tensor, *, exact: bool = False) -> Tensor:
        """x f32 [rows, K] times the layer: f32 [rows, out_features]; `exact` leaves the activations unrounded."""
        return multiply([self], x, exact=exact)

    def weights(self, dtype: torch.dtype, first: int = 0, last: int | None = None) -> Tensor:
        """Columns of blocks [first, last), padding included: [K, columns], rows in packed order."""
        last = self.layout.blocks if last is None else last
        columns = (last - first) * LANES
        out = torch.full((self.spec.in_features, columns + _GUARD), 1234.0, dtype=dtype)
        self._library.fq_dequantize(
            ctypes.byref(self.matrix), first, last, _TILE_TYPES[dtype], out.data_ptr(), out.shape[1]
        )
        assert out[:, columns:].eq(torch.tensor(1234.0, dtype=dtype)).all(), "written beside the tile"
        return out[:, :columns]

    def _fetch(self, suffix: str, start: int, end: int) -> int:
        assert 0 <= start < end <= len(self._bytes[suffix])
        assert end - start <= self._staging
        self._staged = self._bytes[suffix][start:end].copy()
        return self._staged.ctypes.data


class NativePart(Protocol):
    """A layer or a slice of one, ready to be multiplied with."""

    matrix: structs.Matrix

    @property
    def layout(self) -> ArenaLayout: ...

    @property
    def words(self) -> int:
        """32-bit words of a column, of everything that is multiplied with."""
        ...


def multiply(parts: Sequence[NativePart], x: Tensor, *, exact: bool = False) -> Tensor:
    """x f32 [rows, K] times the layer whose slices these are: f32 [rows, outputs of all]."""
    native = library.load()
    rows, x = len(x), x.contiguous()
    forms: dict[object, int] = {}
    described = (structs.Part * len(parts))()
    blocks = needed = 0
    for part, layer in zip(described, parts, strict=True):
        if layer.layout.rounding not in forms:
            needed += int(native.fq_rounded_bytes(rows, layer.layout.units))
        part.matrix, part.first_block = layer.matrix, blocks
        part.inputs = forms.setdefault(layer.layout.rounding, len(forms))
        blocks += layer.layout.blocks
    outputs = sum(layer.layout.spec.out_features for layer in parts)
    words = max(layer.words for layer in parts)
    linear = structs.Linear(ctypes.addressof(described), len(parts), blocks, outputs, words)
    scratch = torch.full((needed + _GUARD,), 0xA5, dtype=torch.uint8)
    out = torch.full((rows * outputs + _GUARD,), 1234.0)
    native.fq_linear(ctypes.byref(linear), x.data_ptr(), rows, int(exact), out.data_ptr(), scratch.data_ptr())
    assert scratch[needed:].eq(0xA5).all(), "written behind the scratch memory"
    assert out[rows * outputs :].eq(1234.0).all(), "written behind the result"
    return out[: rows * outputs].view(rows, outputs)


def columns_of(tensors: Tensors, first: int, last: int, out_features: int) -> Tensors:
    """Tensors of a slice of a layer's columns; its padding goes with the last one."""
    end = tensors["q_weight"].shape[1] if last == out_features else last
    cut = {"q_weight": tensors["q_weight"][:, first:end], "q_scale": tensors["q_scale"][:, first // 8 : end // 8]}
    if "bias" in tensors:
        cut["bias"] = tensors["bias"][first:last]
    return {**tensors, **{suffix: np.ascontiguousarray(tensor) for suffix, tensor in cut.items()}}


def unrounded_weights(tensors: Tensors) -> NDArray[np.float64]:
    """(code - zero) * scale, [K, padded outputs] in packed order of rows, by the format's rules at their plainest.

    The native products keep what fp16 weights (`Exl2Layer.weights`) round off.
    """
    words: NDArray[np.uint32] = tensors["q_weight"].view(np.uint32)
    table = tensors["q_groups"].view(np.uint16).reshape(-1, 2).tolist()
    starts = [start for _, start in table] + [len(words)]
    nibbles = tensors["q_scale"].view(np.uint32)[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & np.uint32(15)
    roots = nibbles.reshape(len(table), -1).astype(np.int64) + 1
    largest = (tensors["q_scale_max"].astype(np.float32) / np.float32(256)).astype(np.float16)
    scales = (roots * roots).astype(np.float16) * largest[:, None]
    groups = []
    for group, (bits, _) in enumerate(table):
        columns = np.ascontiguousarray(words[starts[group] : starts[group + 1]].T)
        stream = np.unpackbits(columns.view(np.uint8), axis=1, bitorder="little").reshape(len(columns), -1, bits)
        codes = stream @ (1 << np.arange(bits)) - (1 << (bits - 1))
        groups.append(codes.T * scales[group].astype(np.float64))
    return np.concatenate(groups)


class Product:
    """x times a layer in float64, with the measures of an error that go with it.

    Args:
        tensors: Of the layer.
        out_features: Outputs before padding.
        x: f32 [rows, K].
    """

    def __init__(self, tensors: Tensors, out_features: int, x: Tensor) -> None:
        permutation = np.argsort(tensors["q_invperm"])
        self._x = x.numpy().astype(np.float64)[:, permutation]
        self._weights = unrounded_weights(tensors)[:, :out_features]
        bias = tensors.get("bias")
        self.without_bias = self._x @ self._weights
        self.result = self.without_bias + (0 if bias is None else bias[:out_features].astype(np.float64))

    def error(self, found: Tensor) -> float:
        """Relative to the norm of the product without its bias."""
        return self._relative(found, float(np.linalg.norm(self.without_bias)))

    def typical_error(self, found: Tensor) -> float:
        """Relative to the norm that the product has on average over the signs of its terms.

        Of a few outputs the terms may cancel, all but the last digits; then an error relative to the product itself
        says nothing about how it was computed.
        """
        return self._relative(found, float(np.sqrt(np.square(self._x) @ np.square(self._weights)).clip(0).sum()))

    def sizes(self) -> NDArray[np.float64]:
        """|x| times |W|: [rows, out_features]."""
        sizes: NDArray[np.float64] = np.abs(self._x) @ np.abs(self._weights)
        return sizes

    def half_steps(self, units: list[int]) -> NDArray[np.float64]:
        """Most that rounding to int8 in units of so many rows can add up to: [rows, out_features]."""
        most = np.zeros_like(self.without_bias)
        start = 0
        for rows in units:
            part = slice(start, start + rows)
            step = np.abs(self._x[:, part]).max(axis=1, keepdims=True) / 127
            most += step / 2 * np.abs(self._weights[part]).sum(axis=0)
            start += rows
        return most

    def _relative(self, found: Tensor, size: float) -> float:
        difference = float(np.linalg.norm(found.numpy() - self.result))
        return difference / size if size > 0 else float(difference > 0)


def units_of(spec: Exl2Spec) -> list[int]:
    """Rows of every unit of a layer, in order."""
    return [
        min(32, run.rows_per_group - start)
        for run in spec.runs
        for _ in range(run.groups)
        for start in range(0, run.rows_per_group, 32)
    ]


def normal(rows: int, inputs: int, seed: int = 0) -> Tensor:
    """Normally distributed activations, f32 [rows, inputs]."""
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))
