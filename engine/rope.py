"""Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split layout of Hugging Face checkpoints."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flexquant.engine.model_config import Rope


class Rotation(NamedTuple):
    """How the rows of one pass are turned. Both f32 [rows, 1, head_dim]."""

    cos: Tensor
    signed_sin: Tensor
    """Sine, negated in the first half of the head dimension."""


class RopeTable:
    """Rotations for positions, computed when they are asked for: that costs less than keeping a long context's table.

    Args:
        rope: The model's settings.
        head_dim: Even.
    """

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self._frequencies = inverse_frequencies(rope, head_dim)

    def rotation(self, positions: Tensor) -> Rotation:
        """Return the rotation of rows at `positions`, int64 [rows].

        The angles are rounded to float32 as models were trained with; going through float64 from there on makes a
        row's values independent of which other rows are computed with it.
        """
        angles = (positions.float()[:, None] * self._frequencies).double()
        cos, sin = angles.cos().float(), angles.sin().float()
        return Rotation(torch.cat((cos, cos), dim=1)[:, None], torch.cat((-sin, sin), dim=1)[:, None])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys by their positions: f32 [rows, heads, head_dim] -> the same shape, a copy."""
    return torch.addcmul(x * rotation.cos, x.roll(x.shape[-1] // 2, dims=-1), rotation.signed_sin)


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Return radians per position for each pair of dimensions: f32 [head_dim / 2].

    "linear" divides all by `factor` (Chen et al., arXiv 2306.15595). "llama3" (The Llama 3 Herd of Models,
    arXiv 2407.21783, and Meta's published code) divides those whose wavelength exceeds
    `original_context / low_freq_factor`, keeps those shorter than `original_context / high_freq_factor`, and
    goes smoothly from one to the other in between.
    """
    exponents = torch.arange(0, head_dim, 2).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "default":
        return frequencies
    scaled = frequencies / rope.factor
    if rope.kind == "linear":
        return scaled
    turns = rope.original_context * frequencies / (2 * math.pi)
    kept = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * scaled
