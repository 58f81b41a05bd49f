"""Rotary position embedding as `config.json` declares it."""

from dataclasses import dataclass
from math import log, sqrt
from typing import Literal

from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding. Other fields than `theta` count for some kinds only."""

    theta: float
    kind: Literal["default", "linear", "llama3", "longrope"] = "default"
    factor: float = 1.0
    """Of linear and llama3."""
    low_freq_factor: float = 1.0
    """Of llama3."""
    high_freq_factor: float = 4.0
    """Of llama3."""
    original_context: int = 8192
    """Tokens of the context before scaling (llama3, longrope)."""
    factors: tuple[float, ...] = ()
    """Of longrope: what the wavelength of each pair of dimensions is multiplied by, up to `original_context` tokens."""
    scale: float = 1.0
    """Of longrope: what turned queries and keys are multiplied by."""


def read_rope(fields: ConfigFields, *, context: int, rotary_dim: int) -> Rope:
    """Read the settings in either spelling.

    Old: `rope_theta` beside `rope_scaling` = {"type" or "rope_type", factor, ...}. New: `rope_parameters` =
    {rope_theta, rope_type, factor, ...}. Where both are there, transformers prefers `rope_scaling`; so do we.

    Args:
        fields: Of config.json.
        context: `max_position_embeddings`.
        rotary_dim: Features of a head that are turned.

    Raises:
        CheckpointError: A field is missing or has no usable value.
        UnsupportedModelError: A setting is not one that the engine runs.
    """
    scaling = _section(fields)
    theta = scaling.number("rope_theta", fields.number("rope_theta", 10000.0))
    for kind in ("full_attention", "sliding_attention"):
        if scaling.has(kind):
            raise scaling.unsupported(kind, "a rotary embedding per kind of layer")
    spelling = "rope_type" if scaling.has("rope_type") else "type"
    match scaling.text(spelling, "default"):
        case "default":
            return Rope(theta)
        case "linear":
            return Rope(theta, "linear", factor=scaling.number("factor"))
        case "llama3":
            return _llama3(scaling, fields, theta, context)
        case "longrope" | "su":  # its name before it was published
            return _longrope(scaling, fields, theta, context, rotary_dim)
        case _:
            raise scaling.unsupported(spelling, "this rope scaling", "default, linear, llama3, longrope")


def read_rotary_dim(fields: ConfigFields, head_dim: int, *, partial: bool) -> int:
    """Read how many features of a head are turned by the position: all, or the first ones.

    Args:
        fields: Of config.json.
        head_dim: Features of a head.
        partial: Whether the family may leave some as they are.

    Raises:
        CheckpointError: The share is no number from 0 to 1, or does not give an even number of features.
        UnsupportedModelError: Some are left as they are, in a family where that is not supported.
    """
    scaling = _section(fields)
    place = scaling if scaling.has("partial_rotary_factor") else fields
    share = place.number("partial_rotary_factor", 1.0)
    if share != 1.0 and not partial:
        raise place.unsupported("partial_rotary_factor", "rotating a part of the head", "1.0")
    turned = int(head_dim * min(share, 1.0))
    if share > 1.0 or turned < 2 or turned % 2:
        raise place.invalid("partial_rotary_factor", f"at most 1 and give an even part of a head of {head_dim}")
    return turned


def _section(fields: ConfigFields) -> ConfigFields:
    return fields.section("rope_scaling") or fields.section("rope_parameters")


def _llama3(scaling: ConfigFields, fields: ConfigFields, theta: float, context: int) -> Rope:
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if low >= high:
        raise scaling.invalid("high_freq_factor", f"above low_freq_factor, {low}")
    return Rope(
        theta,
        "llama3",
        factor=scaling.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=scaling.size(
            "original_max_position_embeddings", fields.size("original_max_position_embeddings", context)
        ),
    )


def _longrope(scaling: ConfigFields, fields: ConfigFields, theta: float, context: int, rotary_dim: int) -> Rope:
    """LongRoPE (Ding et al., arXiv 2402.13753) with its short factors, its scale computed as transformers does."""
    holder = fields if fields.has("original_max_position_embeddings") else scaling
    original = holder.size("original_max_position_embeddings")
    factors = scaling.numbers("short_factor")
    if len(factors) != rotary_dim // 2:
        raise scaling.invalid("short_factor", f"a list of {rotary_dim // 2} numbers above 0")
    stretched = scaling.number("factor", context / original)
    if stretched > 1 and original == 1:
        raise CheckpointError(f"{fields.path}: original_max_position_embeddings is 1; it must be at least 2")
    scale = sqrt(1 + log(stretched) / log(original)) if stretched > 1 else 1.0
    return Rope(
        theta,
        "longrope",
        original_context=original,
        factors=factors,
        scale=scaling.number("attention_factor", scale),
    )
