"""The decoder of the Llama family (Touvron et al., arXiv 2302.13971), which `architectures` lists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.attention import Attend, PagedAttention
from flexquant.engine.kv_cache import KVCache
from flexquant.engine.model_config import (
    FINAL_NORM,
    HEAD,
    ModelConfig,
    input_norm,
    key_norm,
    post_norm,
    query_norm,
)
from flexquant.engine.rope import RopeTable, Rotation
from flexquant.engine.segment import Floats, Segment, extend, nothing, parts
from flexquant.engine.weights import Weights


@dataclass(frozen=True, slots=True)
class _LayerKeys:
    """Names of a layer's weights, made once."""

    input_norm: str
    q: str
    k: str
    v: str
    query_norm: str
    key_norm: str
    o: str
    post_norm: str
    gate: str
    up: str
    down: str


class Decoder:
    """Runs a model over rows of hidden states; keeps no state of its own.

    Args:
        config: The model's shape.
        weights: The model's weights; what they answer may change between layers.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self._rope = RopeTable(config.rope, config.rotary_dim)
        self._keys = [_layer_keys(config, layer) for layer in range(config.layers)]

    def layer(self, i: int, hidden: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run one layer; autograd may follow it.

        Args:
            i: Index of the layer.
            hidden: f32 [rows, hidden]; left as it is.
            positions: int64 [rows], of each row within its sequence.
            attend: Attention among the rows, and to the past if there is any.

        Returns:
            f32 [rows, hidden].
        """
        return self._layer(i, hidden, self._rope.rotation(positions.numpy()), attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the final norm and the head: f32 [rows, hidden] -> f32 [rows, vocab]; autograd may follow it."""
        return self.weights.linear(HEAD, self._norm(FINAL_NORM, hidden))

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], cache: KVCache, safe_point: Callable[[], None] = nothing) -> Floats:
        """Append tokens to sequences and return the logits after each sequence's last one.

        Args:
            segments: At least one; no sequence twice. Each sequence's reservation holds its new tokens.
            cache: Holds the sequences.
            safe_point: Called before each layer, and before the head for each part of the logits that are read. It may
                change weights; it may raise, and then no sequence has changed: the same call can be made again, or the
                sequences be released.

        Returns:
            f32 [len(segments), vocab].

        Raises:
            KVExhaustedError: The system has no memory for the sequences' pages.
        """
        ends = extend(segments, cache)
        sizes = [len(segment.tokens) for segment in segments]
        tokens = torch.from_numpy(np.concatenate([segment.tokens for segment in segments]))
        positions = np.concatenate([np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)])
        rotation = self._rope.rotation(positions)
        hidden = self.weights.embed(tokens)
        spans = [(segment.sequence, size) for segment, size in zip(segments, sizes, strict=True)]
        with PagedAttention(cache, spans) as attend:
            for i in range(self.config.layers):
                safe_point()
                hidden = self._layer(i, hidden, rotation, attend)
        row = 0
        for segment, size in zip(segments, sizes, strict=True):
            if segment.read is not None:
                for part in parts(size):
                    safe_point()
                    logits = self.logits(hidden[row : row + size][part])
                    segment.read(segment.sequence.length + part.start, logits.numpy())
            row += size
        last_rows = torch.tensor(sizes).cumsum(0) - 1
        logits = self.logits(hidden[last_rows])
        for segment, end in zip(segments, ends, strict=True):
            segment.sequence.length = end
        return logits.numpy()

    def _layer(self, i: int, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        keys, linear = self._keys[i], self.weights.linear
        x = self._norm(keys.input_norm, hidden)
        q = rotate(self._heads(keys.q, keys.query_norm, x), rotation)  # [rows, heads, head_dim]
        k = rotate(self._heads(keys.k, keys.key_norm, x), rotation)  # [rows, kv_heads, head_dim]
        v = linear(keys.v, x).view(len(x), -1, self.config.head_dim)
        hidden = hidden + linear(keys.o, attend(i, q, k, v))
        x = self._norm(keys.post_norm, hidden)
        gated = F.silu(linear(keys.gate, x), inplace=True).mul_(linear(keys.up, x))  # [rows, intermediate]
        return hidden + linear(keys.down, gated)

    def _heads(self, key: str, norm: str, x: Tensor) -> Tensor:
        """Project rows to queries or keys, through the norm of heads if there is one: [rows, heads, head_dim]."""
        heads = self.weights.linear(key, x).view(len(x), -1, self.config.head_dim)
        return self._norm(norm, heads) if self.config.head_norms else heads

    def _norm(self, key: str, x: Tensor) -> Tensor:
        """RMS norm (Zhang and Sennrich, arXiv 1910.07467) over the last dimension."""
        return F.rms_norm(x, x.shape[-1:], self.weights.norm(key), self.config.norm_eps)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys by their positions: f32 [rows, heads, head_dim] -> the same shape, a copy.

    Dimensions behind those that the rotation has stay as they are.
    """
    cos, signed_sin = (torch.from_numpy(of_rows).to(x.device) for of_rows in rotation)
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    turned = torch.addcmul(turning * cos, turning.roll(turning.shape[-1] // 2, dims=-1), signed_sin)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def _layer_keys(config: ModelConfig, layer: int) -> _LayerKeys:
    q, k, v, o, gate, up, down = (shape.key for shape in config.linears() if shape.layer == layer)
    return _LayerKeys(
        input_norm(layer), q, k, v, query_norm(layer), key_norm(layer), o, post_norm(layer), gate, up, down
    )
