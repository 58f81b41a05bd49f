"""Weights of an Any-Precision store and of those below it, for measuring; a server reads its arenas instead."""

import torch
from torch import Tensor

from flexquant.engine.any_precision.dequantize import AnyPrecisionMatrix, dequantize
from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_scratch import HOST
from flexquant.engine.torch_tensors import read_tensor
from flexquant.engine.weights import DenseWeights


class AnyPrecisionWeights(DenseWeights):
    """One level. Its matrices are made on first use and kept in float32.

    Args:
        index: The store's tensors.
        config: Its configuration.
        keys: The linear layers that the store has something of, checked by `read_spec`.
        below: The next smaller level, if the store lies on one; a layer that the store has nothing of is as there.
        device: See `DenseWeights`.
    """

    def __init__(
        self,
        index: TensorIndex,
        config: ModelConfig,
        keys: set[str],
        below: "AnyPrecisionWeights | None",
        device: torch.device = HOST,
    ) -> None:
        self._keys = keys
        self._below = below
        super().__init__(index, config, device)

    @property
    def kept_bytes(self) -> int:
        """See `DenseWeights`."""
        return super().kept_bytes + (0 if self._below is None else self._below.kept_bytes)

    def weight(self, key: str) -> Tensor:
        """Return a linear layer's matrix: f32 [out_features, in_features].

        Raises:
            KeyError: Neither this store nor one below has it.
        """
        if key not in self._keys:
            if self._below is None:
                raise KeyError(key)
            return self._below.weight(key)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = dequantize(self.chain(key)).float()
        return kept

    def bias(self, key: str) -> Tensor | None:
        """See `DenseWeights`; it is in the smallest store."""
        return super().bias(key) if self._below is None else self._below.bias(key)

    def chain(self, key: str) -> list[AnyPrecisionMatrix]:
        """Return what every store has of a linear layer, the smallest one first."""
        found = [] if self._below is None else self._below.chain(key)
        if key in self._keys:
            planes, table = (
                read_tensor(self._index, f"{key}.{suffix}").to(self._device) for suffix in ("planes", "table")
            )
            found.append(AnyPrecisionMatrix(planes, table, None))
        return found

    def _check_linear(self, shape: LinearShape) -> None:
        """Leave the linear layers to `read_spec`."""
