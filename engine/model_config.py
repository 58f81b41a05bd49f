"""Shape and settings of a model, read from a Hugging Face `config.json`."""

from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final

from flexquant.engine.architectures import ARCHITECTURES
from flexquant.engine.architectures.traits import Traits
from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.errors import CheckpointError
from flexquant.engine.rope_settings import Rope, read_rope, read_rotary_dim

EMBEDDING: Final = "model.embed_tokens.weight"
FINAL_NORM: Final = "model.norm.weight"
HEAD: Final = "lm_head"
RESIDUAL_METHOD: Final = "flexquant-residual"
"""Quantization method of a store that is no model by itself: its tensors are added to another store's."""
ANY_PRECISION_METHOD: Final = "flexquant-any-precision"
"""Quantization method of a store of bit planes and tables, with or without another store's below them."""


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
    rotary_dim: int
    """Features of a head, from the first on, that are turned by the position."""
    vocab_size: int
    context: int
    """Most tokens of a sequence."""
    context_limit: str | None
    """Why that is less than `max_position_embeddings`; None if it is not."""
    norm_eps: float
    rope: Rope
    head_norms: bool
    """RMS norms of every query and key head before it is turned."""
    tied_head: bool
    attention_bias: bool
    """On q, k and v."""
    output_bias: bool
    """On o."""
    mlp_bias: bool
    """On gate, up and down."""
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

    def norms(self) -> dict[str, int]:
        """Lengths of all norm weights by name, in the order of the forward pass."""
        found: dict[str, int] = {}
        for layer in range(self.layers):
            found[input_norm(layer)] = self.hidden_size
            if self.head_norms:
                found |= {query_norm(layer): self.head_dim, key_norm(layer): self.head_dim}
            found[post_norm(layer)] = self.hidden_size
        return found | {FINAL_NORM: self.hidden_size}


def input_norm(layer: int) -> str:
    """Name of the norm weight before attention."""
    return f"model.layers.{layer}.input_layernorm.weight"


def query_norm(layer: int) -> str:
    """Name of the weight that the norms of all query heads share, if there are any."""
    return f"model.layers.{layer}.self_attn.q_norm.weight"


def key_norm(layer: int) -> str:
    """Name of the weight that the norms of all key heads share, if there are any."""
    return f"model.layers.{layer}.self_attn.k_norm.weight"


def post_norm(layer: int) -> str:
    """Name of the norm weight before the MLP."""
    return f"model.layers.{layer}.post_attention_layernorm.weight"


def read_model_config(folder: Path) -> ModelConfig:
    """Read `config.json` and, for further end-of-text tokens, `generation_config.json`.

    Sizes must be there; for everything else the defaults are those of transformers.

    Raises:
        CheckpointError: A file is missing or a field has no usable value; the message names it.
        UnsupportedModelError: The architecture, or a setting of it, is not one that the engine runs.
    """
    fields = ConfigFields.read(folder / "config.json")
    model_type = fields.text("model_type")
    if model_type not in ARCHITECTURES:
        raise fields.unsupported("model_type", "this architecture", ", ".join(sorted(ARCHITECTURES)))
    traits = ARCHITECTURES[model_type](fields)
    if fields.text("hidden_act", "silu") != "silu":
        raise fields.unsupported("hidden_act", "this activation", "silu")
    quantization = fields.section("quantization_config")
    if quantization and quantization.text("quant_method") not in (
        "exl2",
        RESIDUAL_METHOD,
        ANY_PRECISION_METHOD,
    ):
        raise quantization.unsupported("quant_method", "this quantization", "exl2, and unquantized checkpoints")
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"{fields.path}: num_attention_heads is {heads}; it must be a multiple of num_key_value_heads, {kv_heads}"
        )
    if hidden % heads and not fields.has("head_dim"):
        raise CheckpointError(
            f"{fields.path}: hidden_size is {hidden}; without head_dim it must be a multiple of num_attention_heads, "
            f"{heads}"
        )
    head_dim = fields.size("head_dim", hidden // heads)
    if head_dim % 2:
        raise CheckpointError(f"{fields.path}: head_dim is {head_dim}; rotary embedding needs an even one")
    rotary_dim = read_rotary_dim(fields, head_dim, partial=traits.partial_rotary)
    declared = fields.size("max_position_embeddings", traits.default_context)
    rope = read_rope(fields, context=declared, rotary_dim=rotary_dim)
    context, limit = _limited_context(declared, traits, rope)
    bos = fields.token_ids("bos_token_id")
    return ModelConfig(
        architecture=model_type,
        hidden_size=hidden,
        intermediate_size=fields.size("intermediate_size"),
        layers=fields.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        vocab_size=fields.size("vocab_size"),
        context=context,
        context_limit=limit,
        norm_eps=fields.number("rms_norm_eps", traits.default_norm_eps),
        rope=rope,
        head_norms=traits.head_norms,
        tied_head=fields.flag("tie_word_embeddings", default=False),
        attention_bias=traits.attention_bias,
        output_bias=traits.output_bias,
        mlp_bias=traits.mlp_bias,
        bos_id=(bos[0] if bos else None) if "bos_token_id" in fields else traits.default_bos,
        eos_ids=_read_eos(fields, traits.default_eos),
    )


def _limited_context(declared: int, traits: Traits, rope: Rope) -> tuple[int, str | None]:
    """Tokens up to which the engine computes what the model was trained to, and what keeps them below `declared`."""
    limits: list[tuple[int, str | None]] = [(declared, None)]
    if traits.window is not None:
        limits.append((traits.window, "sliding_window is that long, and attention that forgets is not supported"))
    if rope.kind == "longrope":
        limits.append((rope.original_context, "beyond, the long factors of its longrope are not supported"))
    return min(limits, key=itemgetter(0))


def _read_eos(fields: ConfigFields, default: tuple[int, ...]) -> tuple[int, ...]:
    """End-of-text tokens of both files, without duplicates; the default only where neither names any."""
    path = fields.path.with_name("generation_config.json")
    generation = ConfigFields.read(path) if path.exists() else ConfigFields(path, {})
    found = fields.token_ids("eos_token_id") + generation.token_ids("eos_token_id")
    if "eos_token_id" not in fields and not found:
        return default
    return tuple(dict.fromkeys(found))
