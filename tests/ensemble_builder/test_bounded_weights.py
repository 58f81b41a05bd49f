"""Weights in bounded memory."""

from pathlib import Path

import torch

from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.bounded_weights import BoundedWeights
from support.tiny_checkpoint import tiny_checkpoint


def test_same_results_and_never_much_more_than_the_limit(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    config, index = read_model_config(model), TensorIndex.open(model)
    opened: list[DenseWeights] = []

    def open_weights() -> DenseWeights:
        opened.append(DenseWeights(index, config))
        return opened[-1]

    limit = 10_000
    bounded, whole = BoundedWeights(open_weights, limit), DenseWeights(index, config)
    largest = 4 * max(shape.in_features * shape.out_features for shape in config.linears())
    for shape in config.linears() * 2:
        x = torch.randn(3, shape.in_features)
        assert torch.equal(bounded.linear(shape.key, x), whole.linear(shape.key, x))
        assert opened[-1].kept_bytes <= limit + largest
    assert len(opened) > 2
    assert torch.equal(bounded.embed(torch.tensor([3, 1])), whole.embed(torch.tensor([3, 1])))
    assert torch.equal(bounded.norm("model.norm.weight"), whole.norm("model.norm.weight"))


def test_a_small_model_is_read_once(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    config, index = read_model_config(model), TensorIndex.open(model)
    opened: list[DenseWeights] = []

    def open_weights() -> DenseWeights:
        opened.append(DenseWeights(index, config))
        return opened[-1]

    bounded = BoundedWeights(open_weights)
    for shape in config.linears() * 2:
        bounded.linear(shape.key, torch.randn(3, shape.in_features))
    assert len(opened) == 1
