"""Qwen2 and Qwen2.5: biases on q, k and v always, on o never; defaults as `Qwen2Config` of transformers has them."""

from flexquant.engine.architectures.traits import Traits
from flexquant.engine.architectures.windows import chosen_window
from flexquant.engine.config_fields import ConfigFields


def traits(fields: ConfigFields) -> Traits:
    """The released models declare a sliding window but do not use it."""
    return Traits(
        attention_bias=True,
        output_bias=False,
        mlp_bias=False,
        default_context=32768,
        default_bos=None,
        default_eos=(),
        window=chosen_window(fields),
    )
