"""Qwen3, the dense models: norms of query and key heads; defaults as `Qwen3Config` of transformers has them."""

from flexquant.engine.architectures.traits import Traits
from flexquant.engine.architectures.windows import chosen_window
from flexquant.engine.config_fields import ConfigFields


def traits(fields: ConfigFields) -> Traits:
    """`head_dim` must be there: it is no quotient of other sizes. `attention_bias` covers q, k, v and o."""
    fields.size("head_dim")
    attention_bias = fields.flag("attention_bias", default=False)
    return Traits(
        attention_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=False,
        default_context=32768,
        default_bos=None,
        default_eos=(),
        head_norms=True,
        window=chosen_window(fields),
    )
