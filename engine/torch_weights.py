"""The torch decoder's weights, read from arenas that change between its layers."""

from typing import Any

import torch
from torch import Tensor

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.mapped_embedding import MappedEmbedding
from flexquant.engine.model_config import EMBEDDING
from flexquant.engine.places import Places
from flexquant.engine.residency import Residency
from flexquant.engine.swap import Swapper
from flexquant.engine.torch_method import TORCH_METHODS
from flexquant.engine.torch_tensors import arena_tensor, read_tensor


class TorchWeights:
    """Implements `Weights`. Engine thread only.

    Views of arenas are made per call and die with it: an arena may be unmapped at the next safe point.

    Args:
        ensemble: Where the weights come from.
        residency: The plan that the swapper follows.
        swapper: Owns the arenas.
    """

    def __init__(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> None:
        self.config = ensemble.config
        self._method = TORCH_METHODS[ensemble.manifest.method]
        self._places = Places(ensemble, residency, swapper)
        self._embedding = MappedEmbedding(ensemble.common[EMBEDDING])
        self._norms = {name: read_tensor(ensemble.common, name).float() for name in ensemble.config.norms()}

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Weights`."""
        return torch.from_numpy(self._embedding.rows(tokens.numpy()))

    def norm(self, key: str) -> Tensor:
        """See `Weights`."""
        return self._norms[key]

    def linear(self, key: str, x: Tensor) -> Tensor:
        """See `Weights`."""
        return self._method.linear([self._chain(module)[1] for module in self._places.modules[key]], x)

    def reconstruct(self, module: str) -> tuple[int, Tensor]:
        """Variant of a module as it is now, and its weights: fp16 [in_features, padded outputs] in packed row order."""
        variant, chain = self._chain(module)
        return variant, self._method.reconstruct(chain)

    def _chain(self, module: str) -> tuple[int, list[Any]]:
        """Variant of a module, and views of what is there of it; the views must die before the next safe point."""
        found = self._places.find(module)
        matrix_from = self._method.matrix_from
        return found[-1].variant, [matrix_from(lying.spec, arena_tensor(lying.arena), lying.offset) for lying in found]
