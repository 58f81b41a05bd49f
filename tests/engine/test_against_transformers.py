"""Our logits against transformers', in float32, on checkpoints that transformers itself wrote."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedModel

from flexquant.engine.generation import Generation
from flexquant.engine.kv_cache import pages_for
from flexquant.engine.model_config import read_model_config
from flexquant.engine.prefill import chunks
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from support.dense_backend import DenseBackend
from support.torch_calls import appended
from support.transformers_models import (
    AGREES,
    CASES,
    DIFFERS,
    SMALL,
    TOKENS,
    Checkpoint,
    make_checkpoint,
    mistral,
    phi3,
    randomize,
    reference_logits,
    relative_error,
    windowed_logits,
)

DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Makes the checkpoint of a case, once."""
    return cache(lambda case: make_checkpoint(case, tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def docs_llama() -> Checkpoint:
    """The trained model on a text it has not seen."""
    tokenizer = Tokenizer.from_file(str(DOCS_LLAMA / "tokenizer.json"))
    text = (DOCS_LLAMA / "README.md").read_text(encoding="utf-8")
    tokens = torch.tensor([0, *tokenizer.encode(text, add_special_tokens=False).ids][:TOKENS])
    assert len(tokens) >= 300
    model = LlamaForCausalLM.from_pretrained(DOCS_LLAMA, dtype=torch.float32)
    return Checkpoint(DOCS_LLAMA, tokens, reference_logits(model, tokens))


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
