"""Weights of a whole store in bounded memory, for models whose float32 copies would not fit."""

from collections.abc import Callable
from typing import Final

from torch import Tensor

from flexquant.engine.weights import DenseWeights

KEPT_BYTES: Final = 2 << 30
"""Most float32 copies that are kept between uses."""


class BoundedWeights:
    """Weights that start afresh when they have kept too many float32 copies. Small models stay in memory whole.

    Args:
        open_weights: Opens the weights, from which nothing has been read yet.
        most_bytes: Bytes of copies after which the weights are opened anew.
    """

    def __init__(self, open_weights: Callable[[], DenseWeights], most_bytes: int = KEPT_BYTES) -> None:
        self._open = open_weights
        self._most_bytes = most_bytes
        self._weights = open_weights()

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens: int64 [rows] -> f32 [rows, hidden]."""
        return self._weights.embed(tokens)

    def norm(self, key: str) -> Tensor:
        """Return a norm's weight: f32 [hidden]."""
        return self._weights.norm(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        """Apply a linear layer: f32 [rows, in_features] -> f32 [rows, out_features]."""
        return self._bounded().linear(key, x)

    def columns(self, key: str, x: Tensor, first: int, last: int) -> Tensor:
        """Compute outputs `first` to `last` of a linear layer: f32 [rows, in_features] -> f32 [rows, last - first]."""
        return self._bounded().columns(key, x, first, last)

    def _bounded(self) -> DenseWeights:
        if self._weights.kept_bytes > self._most_bytes:
            self._weights = self._open()
        return self._weights
