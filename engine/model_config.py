"""Shape and settings of a model, read from a Hugging Face `config.json`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from flexquant.engine import architectures
from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.errors import CheckpointError, UnsupportedModelError

EMBEDDING: Final = "model.embed_tokens.weight"
FINAL_NORM: Final = "model.norm.weight"
HEAD: Final = "lm_head"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding. The factors count for `kind` "linear" and "llama3" only."""

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    """Tokens of the context before scaling (llama3)."""


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One linear layer: y [rows, out_features] = x [rows, in_features] · Wᵀ (+ bias)."""

    key: str
    in_features: int
    out_features: int
    bias: bool
    layer: int | None
    """Index of the decoder layer; None for the head."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder of the Llama family."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    """Tokens that the model was made for."""
    norm_eps: float
    rope: Rope
    tied_head: bool
    attention_bias: bool
    """On q, k and v."""
    output_bias: bool
    """On o."""
    mlp_bias: bool
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def linears(self) -> list[LinearShape]:
        """All linear layers in the order of the forward pass, the head last (tied or not)."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = []
        for layer in range(self.layers):
            attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
            shapes += [
                LinearShape(f"{attention}.q_proj", self.hidden_size, query, self.attention_bias, layer),
                LinearShape(f"{attention}.k_proj", self.hidden_size, key_value, self.attention_bias, layer),
                LinearShape(f"{attention}.v_proj", self.hidden_size, key_value, self.attention_bias, layer),
                LinearShape(f"{attention}.o_proj", query, self.hidden_size, self.output_bias, layer),
                LinearShape(f"{mlp}.gate_proj", self.hidden_size, self.intermediate_size, self.mlp_bias, layer),
                LinearShape(f"{mlp}.up_proj", self.hidden_size, self.intermediate_size, self.mlp_bias, layer),
                LinearShape(f"{mlp}.down_proj", self.intermediate_size, self.hidden_size, self.mlp_bias, layer),
            ]
        return [*shapes, LinearShape(HEAD, self.hidden_size, self.vocab_size, bias=False, layer=None)]

    def norms(self) -> list[str]:
        """Names of all norm weights, each [hidden_size]."""
        return [name for layer in range(self.layers) for name in (input_norm(layer), post_norm(layer))] + [FINAL_NORM]


def input_norm(layer: int) -> str:
    """Name of the norm weight before attention."""
    return f"model.layers.{layer}.input_layernorm.weight"


def post_norm(layer: int) -> str:
    """Name of the norm weight before the MLP."""
    return f"model.layers.{layer}.post_attention_layernorm.weight"


def read_model_config(folder: Path) -> ModelConfig:
    """Read `config.json` and, for further end-of-text tokens, `generation_config.json`.

    Raises:
        CheckpointError: A file is missing or a field has no usable value; the message names it.
        UnsupportedModelError: The architecture, or a setting of it, is not one that the engine runs.
    """
    path = folder / "config.json"
    fields = ConfigFields(path, _read_object(path))
    model_type = fields.text("model_type")
    if model_type not in architectures.SUPPORTED:
        raise UnsupportedModelError(
            f"{path}: model_type {model_type!r} is not supported",
            hint=f"Supported: {', '.join(architectures.SUPPORTED)}.",
        )
    config = architectures.parser(model_type)(fields)
    generation = folder / "generation_config.json"
    if not generation.exists():
        return config
    more = ConfigFields(generation, _read_object(generation)).token_ids("eos_token_id")
    return replace(config, eos_ids=tuple(dict.fromkeys((*config.eos_ids, *more))))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", hint="Is this a model folder?") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return found
