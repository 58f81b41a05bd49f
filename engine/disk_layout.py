"""A layer in memory as it is on disk: its tensors one after the other. What the torch path works on."""

from typing import Final

from torch import Tensor

from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.tensor_index import TensorEntry
from flexquant.engine.torch_tensors import torch_dtype

ALIGNMENT: Final = 64
"""Bytes; a cache line, and what torch's vector loads prefer."""


def layout(spec: LayerSpec) -> list[tuple[TensorEntry, int]]:
    """Every tensor of the layer with its offset from the layer's start."""
    placed = []
    offset = 0
    for entry in spec.entries.values():
        placed.append((entry, offset))
        offset += _aligned(entry.nbytes)
    return placed


def size_bytes(spec: LayerSpec) -> int:
    """Bytes that the layer takes in an arena: its payload, each tensor rounded up to `ALIGNMENT`."""
    return sum(_aligned(entry.nbytes) for entry in spec.entries.values())


def tensor_views(spec: LayerSpec, base: Tensor, offset: int) -> dict[str, Tensor]:
    """Views of a layer's tensors, by suffix, that lies at `offset` of `base` (uint8, one-dimensional).

    They live as long as `base`.
    """
    views: dict[str, Tensor] = {}
    for suffix, entry in spec.entries.items():
        part = base[offset : offset + entry.nbytes]
        views[suffix] = part.view(torch_dtype(entry.dtype)).view(entry.shape)
        offset += _aligned(entry.nbytes)
    return views


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
