"""Fisher information layer by layer is that of the whole model, whatever its family."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.model_config import HEAD, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.any_precision import fisher
from flexquant.ensemble_builder.any_precision.fisher import (
    DifferentiableWeights,
    head_information,
    layer_information,
)
from flexquant.ensemble_builder.evaluation import run_layer
from support.dense_checkpoint import dense_checkpoint
from support.tiny_checkpoint import FAMILIES, tiny_checkpoint

TOKENS = torch.randint(2, 90, (3, 20), generator=torch.Generator().manual_seed(0))


def whole_model(index: TensorIndex, config: ModelConfig) -> dict[str, Tensor]:
    """By key: squares of the gradients of each window's loss, from one graph over the whole model."""
    keys = [shape.key for shape in config.linears()]
    weights = DifferentiableWeights(index, config, keys)
    decoder = Decoder(config, weights)
    found = {key: torch.zeros_like(weights.matrices[key], requires_grad=False) for key in keys}
    for tokens in TOKENS:
        hidden = weights.embed(tokens)
        for layer in range(config.layers):
            hidden = decoder.layer(layer, hidden, torch.arange(len(tokens)), CausalAttention(len(tokens)))
        loss = F.cross_entropy(decoder.logits(hidden)[:-1], tokens[1:], reduction="sum")
        for key, gradient in zip(keys, torch.autograd.grad(loss, list(weights.matrices.values())), strict=True):
            found[key] += gradient**2
    return found


def layer_by_layer(index: TensorIndex, config: ModelConfig) -> dict[str, Tensor]:
    dense = DenseWeights(index, config)
    inputs = [torch.stack([dense.embed(window) for window in TOKENS])]
    for layer in range(config.layers):
        inputs.append(run_layer(Decoder(config, dense), layer, inputs[-1]))
    found, gradient = head_information(config, DifferentiableWeights(index, config, [HEAD]), inputs[-1], TOKENS)
    for layer in reversed(range(config.layers)):
        keys = [shape.key for shape in config.linears() if shape.layer == layer]
        weights = DifferentiableWeights(index, config, keys)
        of_layer, gradient = layer_information(config, weights, layer, inputs[layer], gradient)
        found |= of_layer
    return found


@pytest.fixture(params=[*FAMILIES, "qwen2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "qwen2":
        return dense_checkpoint(tmp_path / "model", architecture="qwen2", tied=True)
    return tiny_checkpoint(tmp_path / "model", family=request.param)


def test_it_is_the_whole_models(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where logits come in several tiles."""
    index, config = TensorIndex.open(checkpoint), read_model_config(checkpoint)
    expected = whole_model(index, config)
    monkeypatch.setattr(fisher, "LOGIT_BYTES", 4 * config.vocab_size * 7)
    found = layer_by_layer(index, config)
    assert found.keys() == expected.keys()
    for key, information in expected.items():
        assert information.max() > 0
        torch.testing.assert_close(found[key], information, rtol=1e-3, atol=1e-5 * information.max().item())
