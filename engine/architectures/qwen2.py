"""Qwen2 and Qwen2.5: Llama with biases on q, k and v."""

from flexquant.engine.architectures.decoder_config import decoder_config
from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.model_config import ModelConfig


def parse(fields: ConfigFields) -> ModelConfig:
    """Read a Qwen2 config.

    Raises:
        UnsupportedModelError: It uses sliding window attention, which the decoder does not have.
    """
    if fields.flag("use_sliding_window", default=False):
        raise UnsupportedModelError(f"{fields.path}: use_sliding_window is not supported")
    return decoder_config(fields, qkv_bias=True, output_bias=False, mlp_bias=False)
