"""The evaluation protocol against plain formulas."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flexquant.engine import kv_cache
from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder import evaluation
from flexquant.ensemble_builder.evaluation import (
    Reference,
    Windows,
    final_hidden,
    measure,
    measure_windows,
    read_text,
    rounded,
)
from support.tiny_model import RandomWeights, tiny_config
from support.torch_calls import appended

DOCS_LLAMA = Path(__file__).parent.parent / "assets" / "docs-llama"
SMALL = tiny_config()
TEXT = "The quick brown fox jumps over the lazy dog. " * 400


def noisy(noise: float) -> RandomWeights:
    """Return the small model with errors of this relative size in its linear layers."""
    weights = RandomWeights(SMALL)
    generator = torch.Generator().manual_seed(1)
    for shape in SMALL.linears():
        exact = weights.tensors[shape.key]
        weights.tensors[shape.key] = exact + noise * exact.std() * torch.randn(exact.shape, generator=generator)
    return weights


def random_windows(count: int = 5, window: int = 24, seed: int = 0) -> Windows:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, SMALL.vocab_size, (count, window), generator=generator)
    tokens[:, 0] = 0
    return Windows(tokens, Text(name="random", sha256="0" * 64, tokens=tokens.numel()))


def log_probabilities(weights: RandomWeights, windows: Windows) -> Tensor:
    """Return what the decoder predicts token by token through its cache: f32 [windows, window - 1, vocab]."""
    decoder = Decoder(SMALL, weights)
    cache = kv_cache.KVCache(SMALL, 1, np.float32)
    rows = []
    for window in windows.tokens:
        sequence = cache.sequence()
        cache.reserve(sequence, len(window))
        for token in window[:-1]:
            logits = torch.from_numpy(decoder.forward([appended(sequence, token[None])], cache))
            rows.append(logits.log_softmax(-1))
        cache.release(sequence)
    return torch.cat(rows).view(len(windows.tokens), -1, SMALL.vocab_size)


def test_perplexity_and_kl_follow_their_definitions() -> None:
    windows = random_windows()
    exact, other = RandomWeights(SMALL), noisy(0.3)
    reference = Decoder(SMALL, exact)
    decoder = Decoder(SMALL, other)
    found = measure(
        decoder, final_hidden(decoder, windows), windows, Reference(reference, final_hidden(reference, windows))
    )
    logs, against = log_probabilities(other, windows).double(), log_probabilities(exact, windows).double()
    targets = windows.tokens[:, 1:, None]
    assert found.perplexity == pytest.approx(math.exp(-logs.gather(2, targets).mean().item()), rel=1e-4)
    assert found.kl == pytest.approx(((against - logs) * against.exp()).sum(2).mean().item(), rel=1e-4)


def test_a_model_does_not_differ_from_itself() -> None:
    windows = random_windows()
    decoder = Decoder(SMALL, RandomWeights(SMALL))
    hidden = final_hidden(decoder, windows)
    assert measure(decoder, hidden, windows, Reference(decoder, hidden)).kl == 0.0


def test_tiles_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = random_windows()
    decoder, twin = Decoder(SMALL, RandomWeights(SMALL)), Decoder(SMALL, noisy(0.3))
    hidden = final_hidden(decoder, windows)
    whole = measure(twin, final_hidden(twin, windows), windows, Reference(decoder, hidden))
    monkeypatch.setattr(evaluation, "LOGIT_BYTES", 7 * 4 * SMALL.vocab_size)
    monkeypatch.setattr(evaluation, "LAYER_ROWS", 1)
    tiled = measure(twin, final_hidden(twin, windows), windows, Reference(decoder, hidden))
    assert tiled.kl == pytest.approx(whole.kl, rel=1e-4)
    assert tiled.perplexity == pytest.approx(whole.perplexity, rel=1e-5)


def test_what_is_kept_of_the_reference_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = random_windows()
    decoder, twin = Decoder(SMALL, RandomWeights(SMALL)), Decoder(SMALL, noisy(0.3))
    hidden = final_hidden(twin, windows)
    kept = Reference.of(decoder, windows)
    found = [measure_windows(twin, hidden, windows, kept) for _ in range(2)]
    monkeypatch.setattr(evaluation, "KEPT_BYTES", 0)
    found.append(measure_windows(twin, hidden, windows, Reference.of(decoder, windows)))
    assert found[0] == found[1] == found[2]


def test_windows_have_their_own_figures_and_their_means_are_those_of_the_text() -> None:
    windows = random_windows()
    decoder, twin = Decoder(SMALL, RandomWeights(SMALL)), Decoder(SMALL, noisy(0.3))
    hidden = final_hidden(twin, windows)
    found = measure_windows(twin, hidden, windows, Reference.of(decoder, windows))
    last = Windows(windows.tokens[-1:], windows.text)
    alone = measure_windows(twin, hidden[-1:], last, Reference.of(decoder, last))
    assert (found.kl[-1], found.surprise[-1]) == pytest.approx((alone.kl[0], alone.surprise[0]), rel=1e-5)
    whole = measure(twin, hidden, windows, Reference.of(decoder, windows))
    assert whole.kl == pytest.approx(found.mean_kl, rel=1e-5)
    guesses = log_probabilities(noisy(0.3), windows).argmax(-1) == windows.tokens[:, 1:]
    assert found.right == pytest.approx(guesses.double().mean(dim=1).tolist())


def test_logits_that_are_not_finite_are_an_error() -> None:
    windows = random_windows()
    decoder = Decoder(SMALL, RandomWeights(SMALL))
    with pytest.raises(InputError, match="not finite"):
        measure(decoder, final_hidden(decoder, windows) * math.nan, windows, None)


def test_windows_do_not_overlap_begin_with_bos_and_drop_the_rest() -> None:
    config, tokenizer = read_model_config(DOCS_LLAMA), Tokenizer.open(DOCS_LLAMA)
    tokens = tokenizer.encode(TEXT, bos=False)
    windows = Windows.of_text(TEXT, "a.txt", tokenizer, config)
    count = len(tokens) // 1023
    assert windows.tokens.shape == (count, 1024)
    assert windows.tokens[:, 0].tolist() == [config.bos_id] * count
    assert windows.tokens[:, 1:].flatten().tolist() == tokens[: count * 1023]
    assert windows.text == Text(
        name="a.txt", sha256=hashlib.sha256(TEXT.encode()).hexdigest(), tokens=windows.tokens.numel()
    )


def test_windows_without_bos_and_of_a_short_context() -> None:
    config = replace(read_model_config(DOCS_LLAMA), bos_id=None, context=100)
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    windows = Windows.of_text(TEXT, "a.txt", tokenizer, config, limit=2)
    assert windows.tokens.tolist() == [tokenizer.encode(TEXT, bos=False)[at : at + 100] for at in (0, 100)]


def test_a_text_that_is_too_short_says_what_is_needed() -> None:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    with pytest.raises(InputError, match=r"a\.txt: \d+ tokens do not fill one window of 1023"):
        Windows.of_text("Too short.", "a.txt", tokenizer, read_model_config(DOCS_LLAMA))


def test_a_text_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: cannot be read"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin1\.txt: not UTF-8"):
        read_text(tmp_path / "latin1.txt")


def test_figures_keep_six_digits() -> None:
    assert [rounded(figure) for figure in (14.78123456, 0.000012345678, 0.0)] == [14.7812, 1.23457e-05, 0.0]
