"""Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split layout of Hugging Face checkpoints."""

import math
from typing import NamedTuple

import numpy as np

from flexquant.engine.rope_settings import Rope
from flexquant.engine.segment import Floats, Tokens


class Rotation(NamedTuple):
    """How the rows of one pass are turned. Both f32 [rows, 1, rotary_dim]."""

    cos: Floats
    signed_sin: Floats
    """Sine, negated in the first half of the dimensions that are turned."""


class RopeTable:
    """Rotations for positions, computed when they are asked for: that costs less than keeping a long context's table.

    Args:
        rope: The model's settings.
        rotary_dim: Features of a head that are turned, the first ones; even.
    """

    def __init__(self, rope: Rope, rotary_dim: int) -> None:
        self._frequencies = inverse_frequencies(rope, rotary_dim)
        self._scale = np.float32(rope.scale)

    def rotation(self, positions: Tokens) -> Rotation:
        """Return the rotation of rows at `positions`, int64 [rows].

        The angles are rounded to float32 as models were trained with; going through float64 from there on makes a
        row's values independent of which other rows are computed with it.
        """
        angles = (positions.astype(np.float32)[:, None] * self._frequencies).astype(np.float64)
        cos, sin = (turned(angles).astype(np.float32) * self._scale for turned in (np.cos, np.sin))
        return Rotation(np.concatenate((cos, cos), axis=1)[:, None], np.concatenate((-sin, sin), axis=1)[:, None])


def inverse_frequencies(rope: Rope, rotary_dim: int) -> Floats:
    """Return radians per position for each pair of dimensions: f32 [rotary_dim / 2].

    "linear" divides all by `factor` (Chen et al., arXiv 2306.15595). "llama3" (The Llama 3 Herd of Models,
    arXiv 2407.21783, and Meta's published code) divides those whose wavelength exceeds
    `original_context / low_freq_factor`, keeps those shorter than `original_context / high_freq_factor`, and
    goes smoothly from one to the other in between. "longrope" (Ding et al., arXiv 2402.13753) divides each by a factor
    of its own.
    """
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies: Floats = np.float32(1) / np.float32(rope.theta) ** exponents
    if rope.kind == "default":
        return frequencies
    if rope.kind == "longrope":
        return (frequencies / np.array(rope.factors, np.float32)).astype(np.float32)
    scaled: Floats = frequencies / np.float32(rope.factor)
    if rope.kind == "linear":
        return scaled
    turns = rope.original_context * frequencies / (2 * math.pi)
    kept = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clip(0, 1)
    return (kept * frequencies + (1 - kept) * scaled).astype(np.float32)
