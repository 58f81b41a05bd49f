"""What the torch path does differently for matrices of different methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

import flexquant.engine.any_precision.dequantize as any_precision
import flexquant.engine.exl2.dequantize as exl2
from flexquant.engine.manifest import Method


@dataclass(frozen=True, slots=True)
class TorchMethod:
    """Functions of one method. A *chain* is what lies in arenas of a layer, or of a slice: what stands alone first."""

    matrix_from: Callable[[Any, Tensor, int], Any]
    """The matrix of a spec that lies in memory, at an offset, as it is on disk."""
    linear: Callable[[Sequence[Sequence[Any]], Tensor], Tensor]
    """Inputs times the chains of a layer's slices, plus the bias: f32 [rows, K] -> f32 [rows, N]."""
    reconstruct: Callable[[Sequence[Any]], Tensor]
    """Weights of a chain: fp16 [K, padded outputs], packed order."""
    scratch_bytes: Callable[[int], int]
    """Working memory for matrices of so many inputs."""


TORCH_METHODS: Final[Mapping[Method, TorchMethod]] = {
    "exl2": TorchMethod(exl2.matrix_from, exl2.linear, exl2.reconstruct, exl2.scratch_bytes),
    "any-precision": TorchMethod(
        any_precision.matrix_from, any_precision.linear, any_precision.reconstruct, any_precision.scratch_bytes
    ),
}
