"""What config.json has without a default, of a small model of every family, and settings that families add."""

from typing import Any

from support.checkpoints import SMALL_LLAMA

QWEN2: dict[str, object] = {**SMALL_LLAMA, "model_type": "qwen2"}
QWEN3: dict[str, object] = {**SMALL_LLAMA, "model_type": "qwen3", "head_dim": 24}
MISTRAL: dict[str, object] = {**SMALL_LLAMA, "model_type": "mistral"}
PHI3: dict[str, object] = {**SMALL_LLAMA, "model_type": "phi3"}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 48.0, 64.0],
}


def without(fields: dict[str, object], *names: str) -> dict[str, object]:
    """All fields but these."""
    return {name: value for name, value in fields.items() if name not in names}
