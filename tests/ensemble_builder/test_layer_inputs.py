"""Hessians of the inputs of linear layers, gathered while the model runs."""

import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import HEAD, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder import layer_inputs
from flexquant.ensemble_builder.layer_inputs import ObservedWeights
from flexquant.ensemble_builder.shared_inputs import input_of
from support.dense_checkpoint import dense_checkpoint


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[TensorIndex, ModelConfig]:
    folder = dense_checkpoint(tmp_path_factory.mktemp("layer_inputs") / "model")
    return TensorIndex.open(folder), read_model_config(folder)


@pytest.mark.parametrize(
    ("key", "first"),
    [("q_proj", "q_proj"), ("k_proj", "q_proj"), ("v_proj", "q_proj"), ("o_proj", "o_proj")],
)
def test_q_k_and_v_share_their_input(key: str, first: str) -> None:
    assert input_of(f"model.layers.3.self_attn.{key}") == f"model.layers.3.self_attn.{first}"


@pytest.mark.parametrize(("key", "first"), [("gate_proj", "gate_proj"), ("up_proj", "gate_proj"), ("down_proj",) * 2])
def test_gate_and_up_share_their_input(key: str, first: str) -> None:
    assert input_of(f"model.layers.3.mlp.{key}") == f"model.layers.3.mlp.{first}"


def test_the_head_has_its_own_input() -> None:
    assert input_of(HEAD) == HEAD


@pytest.mark.parametrize("panel", [16, 1024])
def test_hessians_are_the_sums_of_products_of_the_inputs(
    opened: tuple[TensorIndex, ModelConfig], panel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_inputs, "PANEL", panel)
    index, config = opened
    weights = ObservedWeights(index, config)
    x = torch.randn(40, config.hidden_size, generator=torch.Generator().manual_seed(0))
    for rows in torch.split(x, 15):
        weights.linear("model.layers.0.self_attn.q_proj", rows)
        weights.linear("model.layers.0.self_attn.k_proj", rows)
    hessian = weights.take_hessian("model.layers.0.self_attn.q_proj")
    assert torch.equal(hessian, hessian.T)
    assert torch.allclose(hessian, x.T @ x, rtol=1e-4, atol=1e-4)


def test_a_layer_runs_as_if_it_were_not_observed(opened: tuple[TensorIndex, ModelConfig]) -> None:
    index, config = opened
    hidden = torch.randn(24, config.hidden_size, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(12).repeat(2)
    observed, plain = (
        Decoder(config, weights).layer(1, hidden, positions, CausalAttention(12))
        for weights in (ObservedWeights(index, config), DenseWeights(index, config))
    )
    assert torch.equal(observed, plain)


def test_the_heads_input_is_the_normed_hidden_state(opened: tuple[TensorIndex, ModelConfig]) -> None:
    index, config = opened
    weights = ObservedWeights(index, config)
    hidden = torch.randn(24, config.hidden_size, generator=torch.Generator().manual_seed(2))
    Decoder(config, weights).logits(hidden)
    x = F.rms_norm(hidden, (config.hidden_size,), weights.norm("model.norm.weight"), config.norm_eps)
    assert torch.allclose(weights.take_hessian(HEAD), x.T @ x, rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_finite_in_half_precision_are_refused(tmp_path: Path) -> None:
    folder = dense_checkpoint(tmp_path / "model", dtype="float32")
    damaged = bytearray((folder / "model.safetensors").read_bytes())
    key = "model.layers.0.self_attn.k_proj"
    offset = TensorIndex.open(folder)[f"{key}.weight"].offset
    damaged[offset : offset + 4] = struct.pack("<f", 1e6)
    (folder / "model.safetensors").write_bytes(damaged)
    weights = ObservedWeights(TensorIndex.open(folder), read_model_config(folder))
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.k_proj has values that are not finite"):
        weights.weight_and_bias(key)
