"""What config.json says of one family only."""

from pathlib import Path

import pytest

from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import read_model_config
from support.checkpoints import SMALL_LLAMA, write_config
from support.family_configs import MISTRAL, PHI3, QWEN2, QWEN3, without


@pytest.mark.parametrize(
    ("fields", "changes", "biases"),
    [
        (SMALL_LLAMA, {}, (False, False, False)),
        (SMALL_LLAMA, {"attention_bias": True}, (True, True, False)),
        (SMALL_LLAMA, {"mlp_bias": True}, (False, False, True)),
        (QWEN2, {}, (True, False, False)),
        (QWEN2, {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 1}, (True, False, False)),
        (QWEN2, {"layer_types": ["full_attention", "full_attention"]}, (True, False, False)),
        (QWEN3, {}, (False, False, False)),
        (QWEN3, {"attention_bias": True}, (True, True, False)),
        (MISTRAL, {}, (False, False, False)),
        (PHI3, {}, (False, False, False)),
    ],
)
def test_biases(
    fields: dict[str, object], changes: dict[str, object], biases: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    config = read_model_config(write_config(tmp_path, fields, **changes))
    assert (config.attention_bias, config.output_bias, config.mlp_bias) == biases


WINDOWS: list[tuple[dict[str, object], dict[str, object], int]] = [
    (MISTRAL, {}, 4096),  # as transformers takes a silent file
    (MISTRAL, {"sliding_window": None}, 32768),
    (MISTRAL, {"sliding_window": 4096}, 4096),
    (MISTRAL, {"sliding_window": 32768}, 32768),
    (MISTRAL, {"sliding_window": 40000}, 32768),
    (PHI3, {}, 32768),
    (PHI3, {"sliding_window": 2047}, 2047),
    (PHI3, {"sliding_window": None}, 32768),
    (QWEN2, {"sliding_window": 128}, 32768),
    (QWEN2, {"use_sliding_window": True, "sliding_window": 128}, 128),
    (QWEN3, {"use_sliding_window": True}, 4096),
    (
        QWEN3,
        {
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        9,
    ),
    (SMALL_LLAMA, {"sliding_window": 128}, 32768),
]


@pytest.mark.parametrize(("fields", "changes", "context"), WINDOWS)
def test_a_sliding_window_limits_the_context(
    fields: dict[str, object], changes: dict[str, object], context: int, tmp_path: Path
) -> None:
    config = read_model_config(write_config(tmp_path, {**fields, "max_position_embeddings": 32768}, **changes))
    assert config.context == context
    assert (config.context_limit is None) == (context == 32768)
    assert config.context_limit is None or "sliding_window" in config.context_limit


def test_qwen3_has_norms_of_heads_and_says_how_wide_they_are(tmp_path: Path) -> None:
    config = read_model_config(write_config(tmp_path / "good", QWEN3, num_key_value_heads=2))
    assert list(config.norms().items())[:4] == [
        ("model.layers.0.input_layernorm.weight", 64),
        ("model.layers.0.self_attn.q_norm.weight", 24),
        ("model.layers.0.self_attn.k_norm.weight", 24),
        ("model.layers.0.post_attention_layernorm.weight", 64),
    ]
    with pytest.raises(CheckpointError, match="head_dim is missing"):
        read_model_config(write_config(tmp_path / "bad", without(QWEN3, "head_dim")))


def published(model_type: str, **fields: object) -> dict[str, object]:
    """A config.json; sizes that play no part here are small."""
    return {"model_type": model_type, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 100, **fields}


PUBLISHED: dict[str, tuple[dict[str, object], tuple[int, int, int, int]]] = {
    "Mistral 7B 0.1": (
        published(
            "mistral",
            hidden_size=4096,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=32768,
            rope_theta=10000.0,
            sliding_window=4096,
        ),
        (4096, 4096, 1024, 128),
    ),
    "Mistral 7B 0.3": (
        published(
            "mistral",
            hidden_size=4096,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=32768,
            rope_theta=1000000.0,
            sliding_window=None,
        ),
        (32768, 4096, 1024, 128),
    ),
    "Mistral Nemo": (
        published(
            "mistral",
            hidden_size=5120,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=131072,
            rope_theta=1000000.0,
            sliding_window=None,
        ),
        (131072, 4096, 1024, 128),
    ),
    "Qwen3 0.6B": (
        published(
            "qwen3",
            hidden_size=1024,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40960,
            rope_theta=1000000,
            rope_scaling=None,
            use_sliding_window=False,
            sliding_window=None,
            max_window_layers=28,
            attention_bias=False,
            tie_word_embeddings=True,
        ),
        (40960, 2048, 1024, 128),
    ),
    "Phi-3-mini, 4k": (
        published(
            "phi3",
            hidden_size=3072,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            sliding_window=2047,
            rope_scaling=None,
            rope_theta=10000.0,
        ),
        (2047, 3072, 3072, 96),
    ),
    "Phi-3.5-mini": (
        published(
            "phi3",
            hidden_size=3072,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            sliding_window=262144,
            rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        ),
        (4096, 3072, 3072, 96),
    ),
    "Phi-4": (
        published(
            "phi3",
            hidden_size=5120,
            num_attention_heads=40,
            num_key_value_heads=10,
            max_position_embeddings=16384,
            original_max_position_embeddings=16384,
            sliding_window=None,
            rope_scaling=None,
            rope_theta=250000,
        ),
        (16384, 5120, 1280, 128),
    ),
    "Phi-4-mini": (
        published(
            "phi3",
            hidden_size=3072,
            num_attention_heads=24,
            num_key_value_heads=8,
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            sliding_window=262144,
            partial_rotary_factor=0.75,
            tie_word_embeddings=True,
            rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        ),
        (4096, 3072, 1024, 96),
    ),
}
"""Fields of config.json as the models were published, and what they come to: context, outputs of q and k, rotated
features of a head."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_published_models_are_read(name: str, tmp_path: Path) -> None:
    fields, expected = PUBLISHED[name]
    config = read_model_config(write_config(tmp_path, fields))
    q, k = (config.linears()[at].out_features for at in (0, 1))
    assert (config.context, q, k, config.rotary_dim) == expected
