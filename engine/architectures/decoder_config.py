"""What the configs of all Llama-like decoders have in common."""

from typing import Final, Literal

from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.model_config import ModelConfig, Rope

ROPE_THETA: Final = 10_000.0


def decoder_config(fields: ConfigFields, *, qkv_bias: bool, output_bias: bool, mlp_bias: bool) -> ModelConfig:
    """Read the common fields; absent ones have the defaults of the Hugging Face config classes.

    Raises:
        CheckpointError: A field is missing or has no usable value.
        UnsupportedModelError: An activation or rope type that the decoder does not have.
    """
    activation = fields.text("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"{fields.path}: hidden_act {activation!r} is not supported; supported: silu")
    hidden_size, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"{kv_heads} does not divide num_attention_heads {heads}")
    if not fields.has("head_dim") and hidden_size % heads:
        raise fields.error("num_attention_heads", f"{heads} does not divide hidden_size {hidden_size}")
    head_dim = fields.size("head_dim", hidden_size // heads)
    if head_dim % 2:
        raise fields.error("head_dim", f"{head_dim} is odd")
    context = fields.size("max_position_embeddings", 2048)
    bos = fields.token_ids("bos_token_id")
    return ModelConfig(
        architecture=fields.text("model_type"),
        hidden_size=hidden_size,
        intermediate_size=fields.size("intermediate_size"),
        layers=fields.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields.size("vocab_size"),
        context=context,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=_rope(fields, context),
        tied_head=fields.flag("tie_word_embeddings", default=False),
        attention_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        bos_id=bos[0] if bos else None,
        eos_ids=fields.token_ids("eos_token_id"),
    )


def _rope(fields: ConfigFields, context: int) -> Rope:
    """Rope settings in either spelling: `rope_parameters`, or `rope_theta` beside `rope_scaling`."""
    settings = fields.object("rope_parameters") or fields.object("rope_scaling")
    theta = fields.number("rope_theta", ROPE_THETA)
    if settings is None:
        return Rope(theta)
    theta = settings.number("rope_theta", theta)
    kind = settings.text("rope_type", settings.text("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind not in ("linear", "llama3"):
        raise UnsupportedModelError(
            f"{fields.path}: rope type {kind!r} is not supported; supported: default, linear, llama3"
        )
    scaled: Literal["linear", "llama3"] = "linear" if kind == "linear" else "llama3"
    factor = settings.number("factor")
    if scaled == "linear":
        return Rope(theta, scaled, factor)
    low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
    if low >= high:
        raise settings.error("low_freq_factor", f"{low} is not below high_freq_factor {high}")
    return Rope(theta, scaled, factor, low, high, settings.size("original_max_position_embeddings", context))
