"""A layer in memory as it is on disk: its EXL2 tensors one after the other. What the torch path works on."""

from typing import Final

from torch import Tensor

from flexquant.engine.exl2.dequantize import Exl2Matrix
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.tensor_index import TensorEntry
from flexquant.engine.torch_tensors import torch_dtype

ALIGNMENT: Final = 64
"""Bytes; a cache line, and what torch's vector loads prefer."""


def layout(spec: Exl2Spec) -> list[tuple[TensorEntry, int]]:
    """Every tensor of the layer with its offset from the layer's start."""
    placed = []
    offset = 0
    for entry in spec.entries.values():
        placed.append((entry, offset))
        offset += _aligned(entry.nbytes)
    return placed


def size_bytes(spec: Exl2Spec) -> int:
    """Bytes that the layer takes in an arena: its payload, each tensor rounded up to `ALIGNMENT`."""
    return sum(_aligned(entry.nbytes) for entry in spec.entries.values())


def matrix_from(spec: Exl2Spec, base: Tensor, offset: int) -> Exl2Matrix:
    """Views of a layer that lies at `offset` of `base` (uint8, one-dimensional). They live as long as `base`."""
    views: dict[str, Tensor] = {}
    for suffix, entry in spec.entries.items():
        part = base[offset : offset + entry.nbytes]
        views[suffix] = part.view(torch_dtype(entry.dtype)).view(entry.shape)
        offset += _aligned(entry.nbytes)
    return Exl2Matrix(
        q_weight=views["q_weight"],
        q_scale=views["q_scale"],
        q_scale_max=views["q_scale_max"],
        q_invperm=views.get("q_invperm"),
        bias=views.get("bias"),
        runs=spec.runs,
        out_features=spec.out_features,
    )


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
