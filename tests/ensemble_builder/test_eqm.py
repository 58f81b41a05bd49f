"""Hybrids, and the reuse of hidden states between them."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.decoder import Decoder
from flexquant.engine.manifest import Module, Text, Variant
from flexquant.ensemble_builder.eqm import EqmEvaluation, HybridWeights, hybrid
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure
from flexquant.ensemble_builder.sequence import Assignment
from support.tiny_model import RandomWeights, tiny_config

SMALL = tiny_config()


def noisy(noise: float) -> RandomWeights:
    """Return the small model with errors of this relative size in its linear layers."""
    weights = RandomWeights(SMALL)
    generator = torch.Generator().manual_seed(1)
    for shape in SMALL.linears():
        exact = weights.tensors[shape.key]
        weights.tensors[shape.key] = exact + noise * exact.std() * torch.randn(exact.shape, generator=generator)
    return weights


LEVELS = {"8.0": noisy(0.02), "4.0": noisy(0.1), "2.0": noisy(0.4)}
MODULES = [
    Module(
        name=shape.key,
        linear=shape.key,
        in_features=shape.in_features,
        out_features=shape.out_features,
        variants=[Variant(level=level, tensors=[], bytes=9) for level in LEVELS],
    )
    for shape in SMALL.linears()
]
TOKENS = torch.randint(2, SMALL.vocab_size, (3, 16), generator=torch.Generator().manual_seed(5))
WINDOWS = Windows(TOKENS, Text(name="random", sha256="0" * 64, tokens=TOKENS.numel()))
DENSE = Decoder(SMALL, RandomWeights(SMALL))
REFERENCE = Reference(DENSE, final_hidden(DENSE, WINDOWS))
TOP = (0,) * len(MODULES)


def evaluation(cache_bytes: int = 1 << 30) -> EqmEvaluation:
    return EqmEvaluation(SMALL, MODULES, LEVELS, WINDOWS, REFERENCE, cache_bytes=cache_bytes)


def lowered(*indices: int) -> Assignment:
    return tuple(int(at in indices) for at in range(len(MODULES)))


def test_each_linear_layer_comes_from_its_level() -> None:
    keys = [shape.key for shape in SMALL.linears()]
    level_of = {key: list(LEVELS)[at % 3] for at, key in enumerate(keys)}
    weights = HybridWeights(LEVELS, level_of)
    for shape in SMALL.linears():
        x = torch.randn(2, shape.in_features)
        torch.testing.assert_close(weights.linear(shape.key, x), LEVELS[level_of[shape.key]].linear(shape.key, x))
    assert torch.equal(weights.embed(TOKENS[0]), LEVELS["8.0"].embed(TOKENS[0]))
    assert torch.equal(weights.norm("model.norm.weight"), LEVELS["8.0"].norm("model.norm.weight"))


def test_columns_of_a_layer_may_come_from_several_levels() -> None:
    """Slices of `up_proj`, of which two neighbours are of one level."""
    key = "model.layers.1.mlp.up_proj"
    whole = next(module for module in MODULES if module.linear == key)
    slices = [
        whole.model_copy(update={"name": f"{key}[{first}:{last}]", "columns": (first, last)})
        for first, last in ((0, 16), (16, 32), (32, 48))
    ]
    decoder = hybrid(
        SMALL, [*slices, *(module for module in MODULES if module is not whole)], LEVELS, (2, 2, 1, *TOP[1:])
    )
    x = torch.randn(5, SMALL.hidden_size)
    expected = torch.cat([LEVELS["2.0"].linear(key, x)[:, :32], LEVELS["4.0"].linear(key, x)[:, 32:]], dim=1)
    torch.testing.assert_close(decoder.weights.linear(key, x), expected)
    uncut = hybrid(
        SMALL, [*slices, *(module for module in MODULES if module is not whole)], LEVELS, (2, 2, 2, *TOP[1:])
    )
    assert torch.equal(uncut.weights.linear(key, x), LEVELS["2.0"].linear(key, x))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([1 << 30, 60_000, 1]))
def test_reuse_never_changes_a_result(seed: int, cache_bytes: int) -> None:
    """A walk like the search's, with jumps, against running every hybrid whole."""
    rng = random.Random(seed)
    measured = evaluation(cache_bytes)
    stem = TOP
    for _ in range(6):
        at = rng.randrange(len(MODULES))
        candidate = (*stem[:at], min(stem[at] + 1, 2), *stem[at + 1 :])
        decoder = hybrid(SMALL, MODULES, LEVELS, candidate)
        whole = measure(decoder, final_hidden(decoder, WINDOWS), WINDOWS, REFERENCE)
        assert measured(stem, [candidate]) == [whole]
        stem = rng.choice([stem, candidate, candidate, TOP])


@pytest.mark.parametrize(("module", "layers"), [(0, 3), (7, 2), (20, 1), (21, 0)])
def test_only_the_layers_from_the_change_on_are_run(module: int, layers: int) -> None:
    measured = evaluation()
    measured(TOP, [TOP])
    before = measured.layers_run
    measured(TOP, [lowered(module)])
    assert measured.layers_run - before == layers


def test_a_stem_that_moves_to_its_latest_candidate_runs_no_layer_again() -> None:
    measured = evaluation()
    measured(TOP, [TOP, lowered(7), lowered(14)])
    before = measured.layers_run
    measured(lowered(14), [lowered(14, 21)])
    assert measured.layers_run == before


def test_sparse_hidden_states_cost_layers_but_no_memory() -> None:
    dense, sparse = evaluation(), evaluation(cache_bytes=1)
    for measured in (dense, sparse):
        measured(TOP, [TOP, lowered(20)])
    assert sparse.layers_run > dense.layers_run
