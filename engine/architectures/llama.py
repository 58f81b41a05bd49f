"""Llama 1, 2 and 3."""

from flexquant.engine.architectures.decoder_config import decoder_config
from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.model_config import ModelConfig


def parse(fields: ConfigFields) -> ModelConfig:
    """Read a Llama config; `attention_bias` stands for q, k, v and o alike."""
    attention_bias = fields.flag("attention_bias", default=False)
    return decoder_config(
        fields,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=fields.flag("mlp_bias", default=False),
    )
