"""Mistral: a Llama without biases, the first version with a sliding window; defaults as transformers has them."""

from flexquant.engine.architectures.traits import Traits
from flexquant.engine.architectures.windows import declared_window
from flexquant.engine.config_fields import ConfigFields


def traits(fields: ConfigFields) -> Traits:
    """`sliding_window` is null in all versions but 0.1."""
    return Traits(
        attention_bias=False,
        output_bias=False,
        mlp_bias=False,
        default_context=131072,
        default_bos=1,
        default_eos=(2,),
        window=declared_window(fields),
    )
