"""Llama 1, 2 and 3: defaults as `LlamaConfig` of transformers has them."""

from flexquant.engine.architectures.traits import Traits
from flexquant.engine.config_fields import ConfigFields


def traits(fields: ConfigFields) -> Traits:
    """`attention_bias` covers q, k, v and o."""
    attention_bias = fields.flag("attention_bias", default=False)
    return Traits(
        attention_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=fields.flag("mlp_bias", default=False),
        default_context=2048,
        default_bos=1,
        default_eos=(2,),
    )
