"""Any-Precision layers in the arena layout of the native kernels, and what their products must be."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexquant.engine.any_precision.arena_layout import PlanesLayout, repack, staging_bytes
from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.memory.arena import Arena
from flexquant.engine.native import library, structs
from flexquant.engine.tensor_index import TensorEntry
from flexquant.engine.torch_tensors import arena_tensor
from support.any_precision_layers import AnyPrecisionLayer, Tensors
from support.checkpoints import DTYPES
from support.native_layers import PLENTY, multiply

_GUARD = 64
"""Bytes behind a layer that nobody may write."""
_TILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def specs_of(layer: AnyPrecisionLayer) -> list[AnyPrecisionSpec]:
    """The specs of a layer whose tensors are in no file."""
    found = []
    for bits, below, tensors in zip(layer.widths, [0, *layer.widths], layer.tensors, strict=False):
        entries = {
            suffix: TensorEntry(suffix, DTYPES[array.dtype.name], array.shape, Path("memory"), 0, array.nbytes)
            for suffix, array in tensors.items()
        }
        found.append(AnyPrecisionSpec("layer", layer.in_features, layer.out_features, bits, below, entries))
    return found


class NativePlanes:
    """A layer at a level, counted from the smallest: each level in an arena of its own, repacked by the kernels.

    Args:
        layer: Its tensors.
        level: Those from the smallest up to this one are there; all without.
        staging: Bytes that are brought at once while it is repacked; None for the least.
        fill: What the arenas hold before, to see what repacking leaves alone.
    """

    def __init__(
        self, layer: AnyPrecisionLayer, level: int = -1, *, staging: int | None = PLENTY, fill: int = 0xAA
    ) -> None:
        self._library = library.load()
        self._arenas: list[Arena] = []
        self._matrices: list[structs.Matrix] = []
        levels = level % len(layer.tensors) + 1
        self.layouts = [PlanesLayout(spec) for spec in specs_of(layer)[:levels]]
        for layout, tensors in zip(self.layouts, layer.tensors, strict=False):
            arena = Arena(layout.size_bytes + _GUARD)
            arena_tensor(arena).fill_(fill)
            least = staging_bytes(layout.spec) if staging is None else staging
            repack(self._library, layout, _Fetch(tensors, least), arena.address, least)
            matrix = layout.matrix(layout.runs())
            layout.place(matrix, arena.address)
            if self._matrices:
                self._matrices[-1].residual = ctypes.addressof(matrix)
            self._arenas.append(arena)
            self._matrices.append(matrix)
        self.layout = self.layouts[0]
        self.matrix = self._matrices[0]

    @property
    def words(self) -> int:
        return sum(layout.words for layout in self.layouts)

    def memory(self) -> list[Tensor]:
        """Copies of the arenas: the layer at each level, and at least `_GUARD` bytes behind it."""
        return [arena_tensor(arena).clone() for arena in self._arenas]

    def multiply(self, x: Tensor, *, exact: bool = False) -> Tensor:
        """x f32 [rows, K] times the layer: f32 [rows, N]; `exact` leaves the activations unrounded."""
        return multiply([self], x, exact=exact)

    def weights(self, dtype: torch.dtype) -> Tensor:
        """[K, N], without the padding."""
        columns = self.layout.columns
        out = torch.full((self.layout.spec.in_features, columns), 1234.0, dtype=dtype)
        self._library.fq_dequantize(
            ctypes.byref(self.matrix), 0, self.layout.blocks, _TILE_TYPES[dtype], out.data_ptr(), columns
        )
        return out[:, : self.layout.spec.out_features]


class _Fetch:
    def __init__(self, tensors: Tensors, staging: int) -> None:
        self._bytes = {suffix: np.frombuffer(array.tobytes(), np.uint8) for suffix, array in tensors.items()}
        self._staging = staging
        self._staged = np.empty(0, dtype=np.uint8)

    def __call__(self, suffix: str, start: int, end: int) -> int:
        assert 0 <= start < end <= len(self._bytes[suffix])
        assert end - start <= self._staging
        self._staged = self._bytes[suffix][start:end].copy()
        return self._staged.ctypes.data


def sliced(layer: AnyPrecisionLayer, first: int, last: int) -> AnyPrecisionLayer:
    """Some of a layer's outputs."""
    levels: Sequence[Tensors] = [
        {
            suffix: np.ascontiguousarray(tensor[:, first:last] if suffix == "planes" else tensor[first:last])
            for suffix, tensor in tensors.items()
        }
        for tensors in layer.tensors
    ]
    return AnyPrecisionLayer(layer.in_features, last - first, layer.widths, levels)


def bound(layer: AnyPrecisionLayer, x: Tensor, level: int = -1) -> NDArray[np.float64]:
    """Most that rounding may change of a product: [rows, N].

    Half a step of int8 for every unit of 32 activations, 1/65024 of a column's largest weight for its weights, and
    what float32 loses.
    """
    weights = layer.weights(level).astype(np.float64)
    inputs = x.numpy().astype(np.float64)
    units = inputs.reshape(len(inputs), -1, 32)
    steps = np.repeat(np.abs(units).max(axis=2) / 127, 32, axis=1)
    largest = np.abs(layer.tensors[level]["table"].astype(np.float64)).max(axis=1)
    sizes = np.abs(inputs) @ np.abs(weights).T
    of_weights: NDArray[np.float64] = (np.abs(inputs) + steps).sum(axis=1)[:, None] * largest / 65024
    of_activations: NDArray[np.float64] = steps / 2 @ np.abs(weights).T
    of_floats = 1e-5 * sizes + 1e-6 * np.abs(layer.product(x.numpy(), level))
    most: NDArray[np.float64] = of_activations + of_weights * 1.01 + of_floats
    return most
