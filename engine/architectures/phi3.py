"""Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: no biases; defaults as `Phi3Config` of transformers has them.

Their checkpoints hold q, k and v in one matrix, and gate and up: `fused_projections` takes these apart.
"""

from flexquant.engine.architectures.traits import Traits
from flexquant.engine.architectures.windows import declared_window
from flexquant.engine.config_fields import ConfigFields


def traits(fields: ConfigFields) -> Traits:
    """Phi-4-mini turns three quarters of a head by the position."""
    return Traits(
        attention_bias=False,
        output_bias=False,
        mlp_bias=False,
        default_context=4096,
        default_bos=1,
        default_eos=(32000,),
        default_norm_eps=1e-5,
        partial_rotary=True,
        window=declared_window(fields, default=None),
    )
