"""The comparison with transformers notices mistakes: each of these is one, and moves the logits."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from flexquant.engine.model_config import ModelConfig
from flexquant.engine.rope_settings import Rope
from flexquant.engine.weights import DenseWeights
from support.transformers_models import (
    AGREES,
    DIFFERS,
    LINEAR_ROPE,
    LLAMA3_ROPE,
    LONG_ROPE,
    Checkpoint,
    make_checkpoint,
    relative_error,
    windowed_logits,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Makes the checkpoint of a case, once."""
    return cache(lambda case: make_checkpoint(case, tmp_path_factory.mktemp("checkpoint")))


class MutatedWeights:
    """Weights with a mistake in some linear layers."""

    def __init__(self, weights: DenseWeights, config: ModelConfig) -> None:
        self._weights = weights
        self._config = config

    def embed(self, tokens: Tensor) -> Tensor:
        return self._weights.embed(tokens)

    def norm(self, key: str) -> Tensor:
        return self._weights.norm(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        return self._weights.linear(key, x)


class WithoutBias(MutatedWeights):
    """One projection's bias is forgotten."""

    projection = ""

    def linear(self, key: str, x: Tensor) -> Tensor:
        bias = self._weights.bias(key)
        result = self._weights.linear(key, x)
        return result if bias is None or not key.endswith(self.projection) else result - bias


class InterleavedHeads(MutatedWeights):
    """Query head h uses the keys of head h modulo kv_heads: the queries and outputs of heads change places."""

    def linear(self, key: str, x: Tensor) -> Tensor:
        heads, kv_heads, head_dim = self._config.heads, self._config.kv_heads, self._config.head_dim
        order = torch.arange(heads).view(heads // kv_heads, kv_heads).T.flatten()
        if key.endswith("o_proj"):
            x = x.view(-1, heads, head_dim)[:, order.argsort()].flatten(1)
        result = self._weights.linear(key, x)
        return result.view(-1, heads, head_dim)[:, order].flatten(1) if key.endswith("q_proj") else result


class SwappedHeadNorms(MutatedWeights):
    """The norm of the queries is taken for the keys, and the other way round."""

    def norm(self, key: str) -> Tensor:
        return self._weights.norm({"q_norm": key.replace("q_norm", "k_norm")}.get(key.split(".")[-2], key))


def without_bias(projection: str) -> type[WithoutBias]:
    return type("WithoutBias", (WithoutBias,), {"projection": projection})


def scaled(rope: dict[str, Any], **changes: float) -> dict[str, Any]:
    names = {"original_max_position_embeddings": "original_context", "rope_type": "kind", "rope_theta": "theta"}
    return {"rope": Rope(**({names.get(name, name): value for name, value in rope.items()} | changes))}


def long_rope(**changes: object) -> dict[str, Any]:
    """LONG_ROPE as we read it, of a context that is 8 times the original one, with some fields changed."""
    rope = Rope(
        theta=10000.0,
        kind="longrope",
        original_context=512,
        factors=tuple(LONG_ROPE["short_factor"]),
        scale=math.sqrt(1 + math.log(8) / math.log(512)),
    )
    return {"rope": dataclasses.replace(rope, **cast(dict[str, Any], changes))}


Mutation = tuple[str, dict[str, Any], type[MutatedWeights]]
MUTATIONS: dict[str, Mutation] = {
    "rope theta": ("llama", {"rope": Rope(theta=20000.0)}, MutatedWeights),
    "rope theta of qwen2": ("qwen2", {"rope": Rope(theta=1000000.0)}, MutatedWeights),
    "llama3 rope scaling forgotten": ("llama3 rope", {"rope": Rope(theta=500000.0)}, MutatedWeights),
    "llama3 factor": ("llama3 rope", scaled(LLAMA3_ROPE, factor=4.0), MutatedWeights),
    "llama3 original context": ("llama3 rope", scaled(LLAMA3_ROPE, original_context=192), MutatedWeights),
    "llama3 low frequency": ("llama3 rope", scaled(LLAMA3_ROPE, low_freq_factor=2.0), MutatedWeights),
    "llama3 high frequency": ("llama3 rope", scaled(LLAMA3_ROPE, high_freq_factor=8.0), MutatedWeights),
    "linear rope scaling forgotten": ("linear rope", {"rope": Rope(theta=10000.0)}, MutatedWeights),
    "linear factor": ("linear rope", scaled(LINEAR_ROPE, factor=2.0), MutatedWeights),
    "heads mapped to the wrong keys": ("llama", {}, InterleavedHeads),
    "heads of qwen2 mapped to the wrong keys": ("qwen2 tied", {}, InterleavedHeads),
    "norm epsilon": ("llama", {"norm_eps": 1e-6}, MutatedWeights),
    "norm epsilon of qwen2": ("qwen2", {"norm_eps": 1e-6}, MutatedWeights),
    "embedding used for an untied head": ("llama", {"tied_head": True}, MutatedWeights),
    "norms of heads forgotten": ("qwen3", {"head_norms": False}, MutatedWeights),
    "norms of heads exchanged": ("qwen3", {}, SwappedHeadNorms),
    "norm epsilon of heads": ("qwen3", {"norm_eps": 1e-3}, MutatedWeights),
    "rope theta of mistral": ("mistral", {"rope": Rope(theta=1000000.0)}, MutatedWeights),
    "the whole head rotated": ("phi3 rotated in part", {"rotary_dim": 16}, MutatedWeights),
    "longrope forgotten": ("phi3 longrope", {"rope": Rope(theta=10000.0)}, MutatedWeights),
    "scale of longrope": ("phi3 longrope", long_rope(scale=1.0), MutatedWeights),
    "long factors": ("phi3 longrope", long_rope(factors=LONG_ROPE["long_factor"]), MutatedWeights),
    **{
        f"{projection} bias dropped": ("llama with biases", {}, without_bias(projection))
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    },
    **{
        f"{projection} bias of qwen2 dropped": ("qwen2", {}, without_bias(projection))
        for projection in ("q_proj", "k_proj", "v_proj")
    },
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mistake_is_noticed(mutation: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    case, changes, weights_class = MUTATIONS[mutation]
    found = checkpoint(case)
    right = found.config()
    wrong = dataclasses.replace(right, **changes)
    weights = weights_class(found.weights(wrong), wrong)
    assert relative_error(windowed_logits(wrong, weights, found.tokens), found.logits) > DIFFERS


def test_the_mutation_harness_itself_changes_nothing(checkpoint: Callable[[str], Checkpoint]) -> None:
    found = checkpoint("llama with biases")
    config = found.config()
    weights = MutatedWeights(found.weights(config), config)
    assert relative_error(windowed_logits(config, weights, found.tokens), found.logits) <= AGREES


def test_a_tied_head_is_not_another_matrix(checkpoint: Callable[[str], Checkpoint]) -> None:
    """A tied checkpoint run with the head of another one."""

    class OtherHead(MutatedWeights):
        def linear(self, key: str, x: Tensor) -> Tensor:
            return (other if key == "lm_head" else self._weights).linear(key, x)

    found, stranger = checkpoint("llama tied"), checkpoint("llama")
    config, other = found.config(), stranger.weights(stranger.config())
    weights = OtherHead(found.weights(config), config)
    assert relative_error(windowed_logits(config, weights, found.tokens), found.logits) > DIFFERS
