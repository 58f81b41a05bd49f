"""Projections in one matrix become the separate ones, and what does not fit is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import CheckpointError
from flexquant.engine.fused_projections import with_separate_projections
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from flexquant.engine.weights import DenseWeights
from support.checkpoints import SMALL_LLAMA, write_config, write_safetensors
from support.tiny_checkpoint import FUSED, tiny_checkpoint
from support.tiny_model import RandomWeights


def test_a_fused_checkpoint_is_the_separate_one(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "phi3", family="phi3")
    config, index = read_model_config(folder), TensorIndex.open(folder)
    assert {name.split(".", 3)[-1] for name in index.names() if "proj" in name} == {
        *(f"{name}.weight" for name in FUSED.values()),
        "self_attn.o_proj.weight",
        "mlp.down_proj.weight",
    }
    separate = with_separate_projections(index, config.linears())
    assert not any("qkv_proj" in name or "gate_up_proj" in name for name in separate.names())
    expected, weights = RandomWeights(config).tensors, DenseWeights(index, config)
    for shape in config.linears():
        assert torch.equal(weights.weight(shape.key), expected[shape.key].half().float())


@settings(deadline=None, max_examples=20)
@given(
    heads=st.integers(1, 4), shared=st.integers(1, 3), head_dim=st.sampled_from([2, 8, 10]), middle=st.integers(1, 9)
)
def test_parts_cover_the_whole_and_keep_its_order(
    tmp_path_factory: pytest.TempPathFactory, heads: int, shared: int, head_dim: int, middle: int
) -> None:
    folder = write_config(
        tmp_path_factory.mktemp("fused"),
        SMALL_LLAMA,
        model_type="phi3",
        hidden_size=6,
        num_hidden_layers=1,
        head_dim=head_dim,
        intermediate_size=middle,
        num_attention_heads=heads * shared,
        num_key_value_heads=heads,
    )
    rows = {"self_attn.qkv_proj": head_dim * heads * (shared + 2), "mlp.gate_up_proj": 2 * middle}
    whole = {
        f"model.layers.0.{name}.weight": np.arange(count * 6, dtype=np.float32).reshape(count, 6)
        for name, count in rows.items()
    }
    write_safetensors(folder / "model.safetensors", whole)
    index = with_separate_projections(TensorIndex.open(folder), read_model_config(folder).linears())
    for name in rows:
        parts = [part for part, of_whole in FUSED.items() if of_whole == name]
        found = torch.cat([read_tensor(index, f"model.layers.0.{part}.weight") for part in parts])
        assert np.array_equal(found.numpy(), whole[f"model.layers.0.{name}.weight"])


def test_without_fused_tensors_nothing_changes(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "llama")
    index = TensorIndex.open(folder)
    assert with_separate_projections(index, read_model_config(folder).linears()) is index


@pytest.mark.parametrize(
    ("changes", "parts"), [({"num_key_value_heads": 1}, "q_proj, k_proj, v_proj"), ({"intermediate_size": 96}, "gate")]
)
def test_a_fused_tensor_of_another_shape_is_named(changes: dict[str, Any], parts: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "phi3", family="phi3", **changes)
    fused = "qkv_proj" if "q_proj" in parts else "gate_up_proj"
    with pytest.raises(CheckpointError, match=rf"{fused}.weight is of shape .*config.json makes {parts}"):
        DenseWeights(TensorIndex.open(folder), read_model_config(folder))
