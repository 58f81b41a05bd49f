"""Qwen2 and Qwen2.5: biases on q, k and v always, on o never; defaults as `Qwen2Config` of transformers has them."""

from flexquant.engine.architectures.traits import Traits
from flexquant.engine.config_fields import ConfigFields


def traits(fields: ConfigFields) -> Traits:
    """Refuses sliding windows, which the released models declare but do not use."""
    layer_types = fields.texts("layer_types")
    if fields.flag("use_sliding_window", default=False):
        raise fields.unsupported("use_sliding_window", "sliding-window attention")
    if any(kind != "full_attention" for kind in layer_types):
        raise fields.unsupported("layer_types", "attention other than full_attention")
    return Traits(
        attention_bias=True,
        output_bias=False,
        mlp_bias=False,
        default_context=32768,
        default_bos=None,
        default_eos=(),
    )
