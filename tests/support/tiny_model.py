"""A Llama small enough to run in a blink, with random weights that never touch a disk."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.model_config import EMBEDDING, HEAD, ModelConfig
from flexquant.engine.rope_settings import Rope

_CONFIG: dict[str, Any] = {
    "architecture": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
    "context": 512,
    "context_limit": None,
    "norm_eps": 1e-5,
    "rope": Rope(theta=10000.0),
    "head_norms": False,
    "tied_head": False,
    "attention_bias": False,
    "output_bias": False,
    "mlp_bias": False,
    "bos_id": 0,
    "eos_ids": (1,),
}


def tiny_config(**changes: object) -> ModelConfig:
    """A configuration of 3 layers, with some fields changed; whole heads are turned if nothing else is said."""
    return ModelConfig(**(_CONFIG | {"rotary_dim": changes.get("head_dim", _CONFIG["head_dim"])} | changes))


class RandomWeights:
    """Normally distributed weights; a layer's outputs have about the size of its inputs."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {
            EMBEDDING: torch.randn(config.vocab_size, config.hidden_size, generator=generator)
        }
        for name, length in config.norms().items():
            self.tensors[name] = 1 + 0.1 * torch.randn(length, generator=generator)
        for shape in config.linears():
            scale = (4.0 if shape.key == HEAD else 1.0) / shape.in_features**0.5
            matrix = scale * torch.randn(shape.out_features, shape.in_features, generator=generator)
            self.tensors[shape.key] = matrix

    def embed(self, tokens: Tensor) -> Tensor:
        return self.tensors[EMBEDDING][tokens]

    def norm(self, key: str) -> Tensor:
        return self.tensors[key]

    def linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[key])

    def columns(self, key: str, x: Tensor, first: int, last: int) -> Tensor:
        return F.linear(x, self.tensors[key][first:last])
