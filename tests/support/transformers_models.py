"""Small models of every family, made and run by transformers in float32, for ours to agree with.

Their weights are random and their logits far from uniform: a mistake anywhere shows in them.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.model_config import ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights, Weights

AGREES = 1e-4
"""Most relative error of logits that were computed in the same way."""
DIFFERS = 1e-3
"""Least relative error of logits that were not."""
TOKENS = 360

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
# The test's tokens go far beyond the 96 of the original context.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 96,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
# Up to the original context of 512 tokens, the short factors count.
LONG_ROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.2 * pair for pair in range(8)],
    "long_factor": [1.0 + 2.0 * pair for pair in range(8)],
}
PHI3_LONG: dict[str, Any] = {
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 512,
    "rope_parameters": LONG_ROPE,
}
PHI4_MINI: dict[str, Any] = PHI3_LONG | {
    "tie_word_embeddings": True,
    "rope_parameters": LONG_ROPE
    | {"partial_rotary_factor": 0.75, "short_factor": LONG_ROPE["short_factor"][:6], "long_factor": [9.0] * 6},
}


def llama(**changes: object) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**(SMALL | changes)))


def qwen2(**changes: object) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**(SMALL | changes)))


def mistral(**changes: object) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**(SMALL | {"sliding_window": None} | changes)))


def qwen3(**changes: object) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**(SMALL | {"head_dim": 24} | changes)))


def phi3(**changes: object) -> PreTrainedModel:
    return Phi3ForCausalLM(Phi3Config(**(SMALL | {"pad_token_id": None} | changes)))


CASES: dict[str, tuple[Callable[..., PreTrainedModel], dict[str, Any]]] = {
    "llama": (llama, {}),
    "llama tied": (llama, {"tie_word_embeddings": True}),
    "llama without shared keys": (llama, {"num_key_value_heads": 8}),
    "llama of one key head": (llama, {"num_key_value_heads": 1}),
    "llama of wide heads": (llama, {"head_dim": 24}),
    "llama3 rope": (llama, {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}),
    "linear rope": (llama, {"rope_parameters": LINEAR_ROPE}),
    "other theta": (llama, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama with biases": (llama, {"attention_bias": True, "mlp_bias": True}),
    "llama of other epsilon": (llama, {"rms_norm_eps": 1e-2}),
    "qwen2": (qwen2, {}),
    "qwen2 tied": (qwen2, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "mistral": (mistral, {}),
    "mistral of wide heads": (mistral, {"head_dim": 24}),
    "mistral of a window": (mistral, {"sliding_window": TOKENS}),
    "qwen3": (qwen3, {}),
    "qwen3 tied": (qwen3, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen3 with biases": (qwen3, {"attention_bias": True}),
    "phi3": (phi3, {}),
    "phi3 of a window": (phi3, {"sliding_window": TOKENS}),
    "phi3 rotated in part": (phi3, {"num_attention_heads": 4, "rope_parameters": {"partial_rotary_factor": 0.5}}),
    "phi3 longrope": (phi3, PHI3_LONG),
    "phi4 mini": (phi3, PHI4_MINI),
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder, tokens, and transformers' logits on them: f32 [TOKENS, vocab]."""

    folder: Path
    tokens: Tensor
    logits: Tensor

    def config(self) -> ModelConfig:
        return read_model_config(self.folder)

    def weights(self, config: ModelConfig) -> DenseWeights:
        return DenseWeights(TensorIndex.open(self.folder), config)


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens[None]).logits[0]
    return logits


def randomize(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Weights that keep activations near 1, biases and norms that matter, and logits far from uniform.

    The embedding is so small that the epsilon of the first norm matters; the head's scale makes up for it if tied.
    """
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.5 * values
        elif "embed_tokens" in name:
            values *= 2.5 * parameter.shape[1] ** -0.5 if tied else 0.01
        else:
            values *= (2.5 if "lm_head" in name else 1.0) * parameter.shape[1] ** -0.5
        parameter.data.copy_(values)


def make_checkpoint(case: str, folder: Path) -> Checkpoint:
    """Write the checkpoint of a case into `folder`, with transformers' logits on random tokens."""
    make_model, changes = CASES[case]
    generator = torch.Generator().manual_seed(list(CASES).index(case))
    model = make_model(**changes)
    randomize(model, generator)
    model.save_pretrained(folder)
    tokens = torch.randint(SMALL["vocab_size"], (TOKENS,), generator=generator)
    return Checkpoint(folder, tokens, reference_logits(model, tokens))


def windowed_logits(config: ModelConfig, weights: Weights, tokens: Tensor) -> Tensor:
    """Our logits by attention over the whole window: f32 [TOKENS, vocab]."""
    decoder, positions, attend = Decoder(config, weights), torch.arange(len(tokens)), CausalAttention(len(tokens))
    hidden = weights.embed(tokens)
    for layer in range(config.layers):
        hidden = decoder.layer(layer, hidden, positions, attend)
    return decoder.logits(hidden)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest of all rows."""
    return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max())
