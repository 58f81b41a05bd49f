"""Our logits against transformers', in float32, on checkpoints that transformers itself wrote."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
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
from flexquant.engine.generation import Generation
from flexquant.engine.kv_cache import pages_for
from flexquant.engine.model_config import ModelConfig, read_model_config
from flexquant.engine.prefill import chunks
from flexquant.engine.rope_settings import Rope
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights, Weights
from support.dense_backend import DenseBackend
from support.torch_calls import appended

AGREES = 1e-4
DIFFERS = 1e-3
TOKENS = 360
DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Makes the checkpoint of a case, once."""

    @cache
    def make(case: str) -> Checkpoint:
        make_model, changes = CASES[case]
        generator = torch.Generator().manual_seed(list(CASES).index(case))
        model = make_model(**changes)
        randomize(model, generator)
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        tokens = torch.randint(SMALL["vocab_size"], (TOKENS,), generator=generator)
        return Checkpoint(folder, tokens, reference_logits(model, tokens))

    return make


@pytest.fixture(scope="module")
def docs_llama() -> Checkpoint:
    """The trained model on a text it has not seen."""
    tokenizer = Tokenizer.from_file(str(DOCS_LLAMA / "tokenizer.json"))
    text = (DOCS_LLAMA / "README.md").read_text(encoding="utf-8")
    tokens = torch.tensor([0, *tokenizer.encode(text, add_special_tokens=False).ids][:TOKENS])
    assert len(tokens) >= 300
    model = LlamaForCausalLM.from_pretrained(DOCS_LLAMA, dtype=torch.float32)
    return Checkpoint(DOCS_LLAMA, tokens, reference_logits(model, tokens))


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


def check_window(checkpoint: Checkpoint) -> None:
    config = checkpoint.config()
    ours = windowed_logits(config, checkpoint.weights(config), checkpoint.tokens)
    assert relative_error(ours, checkpoint.logits) <= AGREES


def check_paged(checkpoint: Checkpoint) -> None:
    """The prompt in chunks of 96 tokens, then token by token, over pages of float32."""
    config, tokens = checkpoint.config(), checkpoint.tokens
    prefilled = len(tokens) - 40
    backend = DenseBackend(config, checkpoint.weights(config), kv_pages=pages_for(len(tokens)), kv_dtype=np.float32)
    sequence = backend.new_sequence(len(tokens))
    passes = [*chunks(0, prefilled, 96), *(range(at, at + 1) for at in range(prefilled, len(tokens)))]
    logits = [backend.forward([appended(sequence, tokens[part.start : part.stop])])[0] for part in passes]
    backend.release(sequence)
    ends = [part.stop - 1 for part in passes]
    assert relative_error(torch.from_numpy(np.stack(logits)), checkpoint.logits[ends]) <= AGREES


@pytest.mark.parametrize("case", CASES)
def test_logits_agree(case: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    found = checkpoint(case)
    assert found.logits.std() >= 2
    check_window(found)


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_over_pages(case: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    check_paged(checkpoint(case))


def test_logits_of_a_trained_model_agree(docs_llama: Checkpoint) -> None:
    assert docs_llama.logits.std() >= 2
    check_window(docs_llama)
    check_paged(docs_llama)


def test_greedy_text_of_a_trained_model_agrees() -> None:
    """Every token that we generate is the one that transformers finds likeliest after those before it."""
    config = read_model_config(DOCS_LLAMA)
    weights = DenseWeights(TensorIndex.open(DOCS_LLAMA), config)
    prompt = [0, 500, 600, 700]
    with Generation(DenseBackend(config, weights, kv_pages=2), prompt, max_tokens=60, ignore_eos=True) as generation:
        while not generation.finished:
            generation.step()
    model = LlamaForCausalLM.from_pretrained(DOCS_LLAMA, dtype=torch.float32)
    logits = reference_logits(model, torch.tensor(prompt + generation.generated))
    assert logits[len(prompt) - 1 : -1].argmax(dim=1).tolist() == generation.generated


# What follows proves that the comparison above would notice mistakes.


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


@pytest.mark.parametrize("make_model", [mistral, phi3])
def test_beyond_its_window_a_model_would_forget(make_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    """Within the context that we allow, all logits agree; transformers' attention has the window, ours has not."""
    model = make_model(sliding_window=128)
    generator = torch.Generator().manual_seed(0)
    randomize(model, generator)
    model.save_pretrained(tmp_path)
    tokens = torch.randint(SMALL["vocab_size"], (160,), generator=generator)
    theirs = reference_logits(model, tokens)
    config = read_model_config(tmp_path)
    assert config.context == 128
    ours = windowed_logits(config, DenseWeights(TensorIndex.open(tmp_path), config), tokens)
    assert relative_error(ours[:128], theirs[:128]) <= AGREES
    assert relative_error(ours[128:129], theirs[128:129]) > DIFFERS


def test_a_tied_head_is_not_another_matrix(checkpoint: Callable[[str], Checkpoint]) -> None:
    """A tied checkpoint run with the head of another one."""

    class OtherHead(MutatedWeights):
        def linear(self, key: str, x: Tensor) -> Tensor:
            return (other if key == "lm_head" else self._weights).linear(key, x)

    found, stranger = checkpoint("llama tied"), checkpoint("llama")
    config, other = found.config(), stranger.weights(stranger.config())
    weights = OtherHead(found.weights(config), config)
    assert relative_error(windowed_logits(config, weights, found.tokens), found.logits) > DIFFERS
