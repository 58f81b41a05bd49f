"""A quantized GGUF file: what is stored, in which types, and its weights for our evaluator.

Needs the package `gguf`, whose dequantization is llama.cpp's in numpy.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.quantizers.llama_file import gguf_name, to_halves, turned_heads
from bench.quantizers.llama_quantizer import is_fallback
from bench.quantizers.package import package
from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix as a file holds it.

    Args:
        kind: The tensor's type: "Q4_K".
        in_features: Its inputs.
        weights: Their number.
        nbytes: Of all its data.
    """

    kind: str
    in_features: int
    weights: int
    nbytes: int


def bits_per_weight(matrices: Sequence[StoredMatrix]) -> float:
    """Stored bits of matrices over the number of their weights."""
    return 8 * sum(matrix.nbytes for matrix in matrices) / sum(matrix.weights for matrix in matrices)


def types_told(kind: str, matrices: Sequence[StoredMatrix]) -> str:
    """How many matrices have which type, most first: "36 Q4_K, 8 Q5_0 (fallback)".

    Args:
        kind: The type that was asked for: "Q4_K_M".
        matrices: What came out.
    """
    counts = Counter((matrix.kind, is_fallback(kind, matrix.in_features)) for matrix in matrices)
    return ", ".join(f"{count} {name}{' (fallback)' * fallback}" for (name, fallback), count in counts.most_common())


class GgufFile:
    """The decoder linears of a GGUF file.

    Args:
        path: The file.
        config: The model's configuration.

    Raises:
        CheckpointError: A matrix is missing or has another shape.
        FlexQuantError: The package `gguf` is missing.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._gguf = package("gguf")
        self._config = config
        found = {tensor.name: tensor for tensor in self._gguf.GGUFReader(path).tensors}
        self._tensors: dict[str, Any] = {}
        for shape in config.linears():
            if shape.layer is None:
                continue
            tensor = found.get(gguf_name(shape.key))
            if tensor is None or tensor.shape.tolist() != [shape.in_features, shape.out_features]:
                raise CheckpointError(f"{path}: {gguf_name(shape.key)} is missing or has another shape")
            self._tensors[shape.key] = tensor
        self.matrices = [self._stored(shape) for shape in config.linears() if shape.key in self._tensors]

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def matrix(self, key: str) -> NDArray[np.float32]:
        """A linear's dequantized matrix, its rows in our order: [out_features, in_features]."""
        tensor = self._tensors[key]
        rows: NDArray[np.float32] = self._gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        heads = turned_heads(self._config, key)
        return rows if heads is None else to_halves(rows, heads)

    def _stored(self, shape: LinearShape) -> StoredMatrix:
        tensor = self._tensors[shape.key]
        weights = shape.in_features * shape.out_features
        return StoredMatrix(tensor.tensor_type.name, shape.in_features, weights, int(tensor.n_bytes))


class GgufWeights(DenseWeights):
    """A checkpoint with the decoder linears of a GGUF file in the place of its own. Biases stay.

    Args:
        file: The file.
        index: The checkpoint's tensors.
        config: Its configuration.

    Raises:
        CheckpointError: See `DenseWeights`.
    """

    def __init__(self, file: GgufFile, index: TensorIndex, config: ModelConfig) -> None:
        super().__init__(index, config)
        self._file = file

    def weight(self, key: str) -> Tensor:
        """See `DenseWeights`."""
        if key not in self._file:
            return super().weight(key)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = torch.from_numpy(np.ascontiguousarray(self._file.matrix(key)))
        return kept
