"""What int8 activations cost a trained model: next to nothing, at every width and however its rows are grouped."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.kv_cache import KVCache
from flexquant.engine.native.compute import NativeCompute
from flexquant.engine.native.decoder import NativeDecoder, _Piece, shape_of
from flexquant.engine.residency import Residency
from flexquant.engine.segment import extend, nothing
from flexquant.engine.swap import Swapper
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import Exl2Weights
from support.levels_of_docs_llama import LEVELS, windows, write_levels
from support.native_layers import KERNELS, needs_native, using
from support.torch_calls import appended

pytestmark = needs_native

WINDOWS, TOKENS = 8, 256
TOLERANCE = 2e-3


class Observed(NativeCompute):
    """Keeps the decoder that it makes."""

    made: NativeDecoder

    def decoder(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> NativeDecoder:
        self.made = super().decoder(ensemble, residency, swapper)
        return self.made


@pytest.fixture(scope="module")
def compute() -> Iterator[Observed]:
    with using():
        yield Observed(KERNELS[0], 2)


@pytest.fixture(scope="module")
def model(compute: Observed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticModel]:
    ensemble = write_levels(tmp_path_factory.mktemp("perplexity") / "docs-llama")
    model = ElasticModel.load(ensemble, kv_pages=WINDOWS * TOKENS // 64, compute=compute)
    yield model
    model.close()


def perplexity(logits: Tensor, tokens: Tensor) -> float:
    """Of windows [windows, tokens] under logits f32 [windows, tokens, vocab]."""
    logs = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None]).double()
    return math.exp(-logs.mean().item())


@torch.inference_mode()
def reference_logits(ensemble: Ensemble, level: str, tokens: Tensor) -> Tensor:
    """The same codes and scales, with activations and sums in float32."""
    decoder = Decoder(
        ensemble.config, Exl2Weights(TensorIndex.open(ensemble.folder / "levels" / level), ensemble.config)
    )
    hidden = decoder.weights.embed(tokens.flatten())
    positions = torch.arange(TOKENS).repeat(len(tokens))
    for layer in range(ensemble.config.layers):
        hidden = decoder.layer(layer, hidden, positions, CausalAttention(TOKENS))
    return decoder.logits(hidden).view(*tokens.shape, -1)


def decoded(model: ElasticModel, tokens: Tensor) -> Tensor:
    """Logits of windows that are decoded together, one row of each per pass."""
    sequences = [model.new_sequence(TOKENS) for _ in tokens]
    logits = torch.empty(*tokens.shape, model.config.vocab_size)
    for at in range(TOKENS):
        segments = [appended(sequence, row[at : at + 1]) for sequence, row in zip(sequences, tokens, strict=True)]
        logits[:, at] = torch.from_numpy(model.forward(segments))
    for sequence in sequences:
        model.release(sequence)
    return logits


@torch.inference_mode()
def prefilled(decoder: NativeDecoder, tokens: Tensor) -> Tensor:
    """Logits of all rows of windows that are computed as prompts are.

    Serving needs the last row's logits only, so `forward` gives no others: this goes to what it is made of.
    """
    cache, shape = KVCache(decoder.config, TOKENS // 64), shape_of(decoder.config)
    logits = []
    for row in tokens:
        sequence = cache.sequence()
        cache.reserve(sequence, TOKENS)
        segment = appended(sequence, row)
        extend([segment], cache)
        hidden = decoder._run([_Piece(sequence, segment.tokens, 0, None)], shape, nothing)
        logits.append(torch.from_numpy(decoder._head(hidden, shape)))
        cache.release(sequence)
    return torch.stack(logits)


@pytest.mark.parametrize("level", LEVELS)
def test_perplexity_is_that_of_the_reference(model: ElasticModel, compute: Observed, level: str) -> None:
    """Within 0.2 % token by token, eight sequences together, and by prefill; which are equal bit for bit."""
    future = model.move_to(LEVELS.index(level))
    while not future.done():
        model.safe_point()
    tokens = windows(WINDOWS, TOKENS)
    found = {
        "decoded alone": torch.cat([decoded(model, row[None]) for row in tokens]),
        "decoded together": decoded(model, tokens),
        "prefilled": prefilled(compute.made, tokens),
    }
    expected = perplexity(reference_logits(model.ensemble, level, tokens), tokens)
    figures = {name: perplexity(logits, tokens) for name, logits in found.items()}
    shown = ", ".join(f"{name} {figure:.4f} ({figure / expected - 1:+.3%})" for name, figure in figures.items())
    print(f"\n{level} bits: reference {expected:.4f}, {shown}")  # noqa: T201  # for -s
    for name, logits in found.items():
        assert abs(figures[name] / expected - 1) <= TOLERANCE
        assert torch.equal(logits, found["prefilled"])
