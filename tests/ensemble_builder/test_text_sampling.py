"""Text that a model makes up."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder import text_sampling
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.text_sampling import LockstepAttention, sample_text, sample_tokens, split_documents
from support.dense_checkpoint import dense_checkpoint
from support.tiny_model import RandomWeights, tiny_config

MODEL = Path(__file__).parents[1] / "assets" / "docs-llama"


def quiet() -> Progress:
    return Progress(io.StringIO())


def test_lockstep_attention_gives_what_whole_windows_give() -> None:
    config = tiny_config()
    decoder = Decoder(config, RandomWeights(config))
    tokens = torch.randint(config.vocab_size, (3, 20), generator=torch.Generator().manual_seed(0))
    attend = LockstepAttention(config, sequences=3, length=20)
    causal, positions = CausalAttention(20), torch.arange(20).repeat(3)
    whole = decoder.weights.embed(tokens.reshape(-1))
    steps = decoder.weights.embed(tokens.reshape(-1)).view(3, 20, -1)
    for layer in range(config.layers):
        whole = decoder.layer(layer, whole, positions, causal)
    for at in range(20):
        attend.position = at
        hidden = steps[:, at]
        for layer in range(config.layers):
            hidden = decoder.layer(layer, hidden, torch.full((3,), at), attend)
        assert torch.allclose(hidden, whole.view(3, 20, -1)[:, at], atol=1e-4)


def test_tokens_follow_the_models_own_probabilities() -> None:
    config = tiny_config(vocab_size=8, eos_ids=())
    decoder = Decoder(config, RandomWeights(config))
    attend = LockstepAttention(config, sequences=8, length=1)
    hidden = decoder.weights.embed(torch.arange(8))
    for layer in range(config.layers):
        hidden = decoder.layer(layer, hidden, torch.zeros(8, dtype=torch.int64), attend)
    expected = decoder.logits(hidden).softmax(dim=1)
    start = int(expected.amax(dim=1).argmin())  # the token after which the model is least sure
    with quiet().stage("sampling", 1) as stage:
        tokens = sample_tokens(decoder, start, 8000, 2, torch.Generator().manual_seed(0), stage)
    assert expected[start].max() < 0.8
    found = tokens[:, 1].bincount(minlength=8) / 8000
    assert (found - expected[start]).abs().max() < 0.02


def test_a_document_that_ends_is_followed_by_the_start_of_the_next() -> None:
    config = tiny_config(vocab_size=8, eos_ids=(1, 2))
    decoder = Decoder(config, RandomWeights(config))
    with quiet().stage("sampling", 1) as stage:
        tokens = sample_tokens(decoder, 5, 50, 40, torch.Generator().manual_seed(0), stage)
    assert (tokens[:, 0] == 5).all()
    ended = torch.isin(tokens[:, :-1], torch.tensor([1, 2]))
    assert ended.any()
    assert (tokens[:, 1:][ended] == 5).all()


def test_documents_are_split_at_their_starts() -> None:
    assert split_documents([0, 3, 4, 1, 0, 0, 5], start=0) == [[3, 4, 1], [], [5]]


def test_a_seed_gives_one_text_of_at_least_the_length_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_sampling, "LENGTH", 24)
    first, again, other = (sample_text(MODEL, 60, seed, quiet()) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(Tokenizer.open(MODEL).encode(first, bos=False)) >= 60
    assert "<|" not in first


def test_memory_limits_how_many_sequences_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_sampling, "LENGTH", 8)
    monkeypatch.setattr(text_sampling, "CACHE_BYTES", 3 * 8 * 8 * 2 * 4 * 32 * 4)
    made: list[int] = []
    plain = text_sampling.sample_tokens

    def noted(decoder: Decoder, start: int, sequences: int, *rest: Any) -> Tensor:
        made.append(sequences)
        return plain(decoder, start, sequences, *rest)

    monkeypatch.setattr(text_sampling, "sample_tokens", noted)
    sample_text(MODEL, 40, 0, quiet())
    assert max(made) == 3
    assert len(made) > 1


def test_a_model_without_a_token_to_start_with_is_refused(tmp_path: Path) -> None:
    folder = dense_checkpoint(tmp_path / "model")
    settings = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(settings | {"bos_token_id": None, "eos_token_id": None}))
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        sample_text(folder, 10, 0, quiet())
