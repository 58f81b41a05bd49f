"""What goes into the linear layers while the unquantized model runs over the calibration text: their Hessians."""

from typing import Final

from torch import Tensor

from flexquant.engine.model_config import HEAD, ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.shared_inputs import input_of
from flexquant.ensemble_builder.store_writer import float16

PANEL: Final = 1024
"""Columns of a Hessian that are computed at once; only those panels' upper parts are."""


class ObservedWeights:
    """Dense weights that sum up x x^T over the inputs of each linear layer they are applied to.

    What they read they keep: there is one such object per decoder layer.

    Args:
        index: The checkpoint's tensors.
        config: Its configuration.

    Raises:
        CheckpointError: A tensor is missing or has another shape or type than the configuration says.
    """

    def __init__(self, index: TensorIndex, config: ModelConfig) -> None:
        self._folder = index.folder
        self._dense = DenseWeights(index, config)
        self._sums: dict[str, Tensor] = {}

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Weights`."""
        return self._dense.embed(tokens)

    def norm(self, key: str) -> Tensor:
        """See `Weights`."""
        return self._dense.norm(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        """See `Weights`; but of the head only the input matters here, and its product is left out."""
        if input_of(key) == key:
            if key not in self._sums:
                self._sums[key] = x.new_zeros(x.shape[1], x.shape[1])
            _add_products(self._sums[key], x)
        return x if key == HEAD else self._dense.linear(key, x)

    def weight_and_bias(self, key: str) -> tuple[Tensor, Tensor | None]:
        """Return a linear layer's weight, f32 [out_features, in_features], and bias, f32 [out_features].

        Raises:
            CheckpointError: A value is not finite in float16.
        """
        weight, bias = self._dense.weight(key), self._dense.bias(key)
        for tensor in (weight, bias):
            if tensor is not None:
                float16(tensor, f"{self._folder}: {key}")
        return weight, bias

    def take_hessian(self, key: str) -> Tensor:
        """Return the sum of x x^T over the inputs of the layer `key`, f32 [in_features, in_features], and forget it."""
        upper = self._sums.pop(key).triu()
        return upper + upper.triu(1).T


def _add_products(sums: Tensor, x: Tensor) -> None:
    """Add the products of columns of x [rows, columns] to the upper triangle of `sums`."""
    for start in range(0, len(sums), PANEL):
        sums[start : start + PANEL, start:].addmm_(x[:, start : start + PANEL].T, x[:, start:])
