"""Which linear layers have the same input, and so one permutation of it."""

from typing import Final

_SAME_INPUT: Final = {
    "self_attn.k_proj": "self_attn.q_proj",
    "self_attn.v_proj": "self_attn.q_proj",
    "mlp.up_proj": "mlp.gate_proj",
}


def input_of(key: str) -> str:
    """Return the key of the first linear layer that has the same input as the layer `key`."""
    for name, first in _SAME_INPUT.items():
        if key.endswith(name):
            return key.removesuffix(name) + first
    return key
