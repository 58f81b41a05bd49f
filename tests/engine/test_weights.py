import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexquant.engine.disk_layout import layout, size_bytes
from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.dequantize import linear, matrix_from
from flexquant.engine.exl2.spec import read_spec
from flexquant.engine.model_config import EMBEDDING, FINAL_NORM, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex, read_into
from flexquant.engine.torch_tensors import read_tensor
from flexquant.engine.weights import DenseWeights, Exl2Weights
from support.dense_backend import DenseBackend
from support.ensembles import Shape, random_ensemble
from support.tiny_model import RandomWeights, tiny_config
from support.torch_calls import appended

QUERY = "model.layers.1.self_attn.q_proj"


def tensors_of(config: ModelConfig, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A checkpoint's tensors, with biases where the configuration has them."""
    weights = RandomWeights(config).tensors
    tensors = {name: weights[name] for name in [EMBEDDING, *config.norms()]}
    for shape in config.linears():
        tensors[f"{shape.key}.weight"] = weights[shape.key]
        if shape.bias:
            tensors[f"{shape.key}.bias"] = torch.randn(shape.out_features)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def dense(folder: Path, tensors: dict[str, Tensor], config: ModelConfig) -> DenseWeights:
    save_file(tensors, folder / "model.safetensors")
    return DenseWeights(TensorIndex.open(folder), config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dense_weights_are_the_files(tmp_path: Path, dtype: torch.dtype) -> None:
    config = tiny_config(attention_bias=True, output_bias=True)
    tensors = tensors_of(config, dtype)
    weights = dense(tmp_path, tensors, config)
    x = torch.randn(3, config.hidden_size)

    assert torch.equal(weights.weight(QUERY), tensors[f"{QUERY}.weight"].float())
    assert torch.equal(weights.norm(FINAL_NORM), tensors[FINAL_NORM].float())
    assert torch.equal(weights.embed(torch.tensor([5, 0])), tensors[EMBEDDING][[5, 0]].float())
    expected = x @ tensors[f"{QUERY}.weight"].float().T + tensors[f"{QUERY}.bias"].float()
    assert torch.allclose(weights.linear(QUERY, x), expected, atol=1e-5)
    gate = "model.layers.0.mlp.gate_proj"
    assert torch.allclose(weights.linear(gate, x), x @ tensors[f"{gate}.weight"].float().T, atol=1e-5)


def test_a_tied_head_is_the_embedding_even_beside_another(tmp_path: Path) -> None:
    config = tiny_config(tied_head=True)
    tensors = tensors_of(config)
    weights = dense(tmp_path, tensors, config)
    assert torch.equal(weights.weight("lm_head"), tensors[EMBEDDING].float())


def test_what_is_kept_is_counted(tmp_path: Path) -> None:
    config = tiny_config()
    weights = dense(tmp_path, tensors_of(config), config)
    assert (weights.kept_bytes, weights.mapped_bytes) == (0, 96 * 32 * 2)
    weights.linear(QUERY, torch.randn(1, 32))
    weights.norm(FINAL_NORM)
    assert weights.kept_bytes == 4 * (32 * 32 + 32)


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return damage


def reshaped(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: tensors[name][1:].clone()})


def of_integers(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: tensors[name].to(torch.int32)})


@pytest.mark.parametrize("name", [EMBEDDING, FINAL_NORM, f"{QUERY}.weight", f"{QUERY}.bias", "lm_head.weight"])
@pytest.mark.parametrize("damage", [without, reshaped, of_integers])
def test_a_tensor_that_does_not_fit_is_named_at_once(
    tmp_path: Path, name: str, damage: Callable[[str], Callable[[dict[str, Tensor]], None]]
) -> None:
    config = tiny_config(attention_bias=True)
    tensors = tensors_of(config)
    damage(name)(tensors)
    with pytest.raises(CheckpointError, match=name) as raised:
        dense(tmp_path, tensors, config)
    assert str(tmp_path) in raised.value.message


# EXL2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 4-bit layers whose head has columns of padding."""
    folder = random_ensemble(tmp_path_factory.mktemp("ensemble"), Shape(vocab=290, layers=2), bits=(4, 3))
    return folder / "levels" / "4.0"


def with_tensors(store: Path, folder: Path, more: dict[str, Tensor], less: tuple[str, ...] = ()) -> TensorIndex:
    """A copy of the store with other tensors."""
    tensors = {name: tensor for file in store.glob("*.safetensors") for name, tensor in load_file(file).items()}
    kept = {name: tensor for name, tensor in (tensors | more).items() if name not in less}
    save_file(kept, folder / "all.safetensors")
    return TensorIndex.open(folder)


def by_the_reference(index: TensorIndex, config: ModelConfig, key: str, x: Tensor) -> Tensor:
    """The layer through the engine's own EXL2 product."""
    shape = {shape.key: shape for shape in config.linears()}[key]
    spec = read_spec(index, key, in_features=shape.in_features, out_features=shape.out_features, bias=shape.bias)
    buffer = bytearray(size_bytes(spec))
    for entry, offset in layout(spec):
        read_into(entry, memoryview(buffer)[offset : offset + entry.nbytes])
    return linear([[matrix_from(spec, torch.frombuffer(buffer, dtype=torch.uint8), 0)]], x)


def test_exl2_layers_are_those_of_the_engine(store: Path) -> None:
    config, index = read_model_config(store), TensorIndex.open(store)
    weights = Exl2Weights(index, config)
    for shape in config.linears():
        x = torch.randn(5, shape.in_features)
        result = weights.linear(shape.key, x)
        assert result.shape == (5, shape.out_features)
        assert torch.allclose(result, by_the_reference(index, config, shape.key, x), atol=1e-4)


def test_exl2_layers_may_have_biases(store: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(read_model_config(store), attention_bias=True)
    biases = {f"{shape.key}.bias": torch.randn(shape.out_features).half() for shape in config.linears() if shape.bias}
    index = with_tensors(store, tmp_path, biases)
    x = torch.randn(2, config.hidden_size)
    result = Exl2Weights(index, config).linear(QUERY, x)
    assert torch.allclose(result, by_the_reference(index, config, QUERY, x), atol=1e-4)
    plain = Exl2Weights(TensorIndex.open(store), read_model_config(store)).linear(QUERY, x)
    assert torch.allclose(result - plain, biases[f"{QUERY}.bias"].float().expand(2, -1), atol=1e-4)


def test_layers_that_are_not_quantized_are_read_as_they_are(store: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(read_model_config(store), tied_head=True)
    up = "model.layers.0.mlp.up_proj"
    matrix = torch.randn(128, 64)
    head = tuple(f"lm_head.{suffix}" for suffix in ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm"))
    index = with_tensors(store, tmp_path, {f"{up}.weight": matrix}, (f"{up}.q_weight", *head))
    weights = Exl2Weights(index, config)
    assert torch.equal(weights.weight(up), matrix)
    assert torch.equal(weights.weight("lm_head"), read_tensor(index, EMBEDDING).float())


def test_a_quantized_head_goes_before_the_tied_embedding(store: Path) -> None:
    config = dataclasses.replace(read_model_config(store), tied_head=True)
    weights = Exl2Weights(TensorIndex.open(store), config)
    assert weights.weight("lm_head").shape == (290, 64)
    assert not torch.allclose(weights.weight("lm_head"), weights.embed(torch.arange(290)), atol=0.1)


def test_a_layer_missing_in_both_forms_is_named(store: Path, tmp_path: Path) -> None:
    index = with_tensors(store, tmp_path, {}, (f"{QUERY}.q_weight",))
    with pytest.raises(CheckpointError, match=QUERY):
        Exl2Weights(index, read_model_config(store))


def test_an_exl2_store_runs(store: Path) -> None:
    config = read_model_config(store)
    weights = Exl2Weights(TensorIndex.open(store), config)
    backend = DenseBackend(config, weights, kv_pages=2)
    sequence = backend.new_sequence(20)
    logits = backend.forward([appended(sequence, torch.arange(20))])
    assert np.isfinite(logits).all()
    assert logits.shape == (1, 290)
    books = backend.resident_bytes()
    assert books.kv == backend.cache.bytes_in_use == backend.cache.page_bytes
    matrices = sum(shape.in_features * shape.out_features for shape in config.linears())
    assert books.fixed == weights.kept_bytes == 4 * (matrices + len(config.norms()) * config.hidden_size)
    backend.release(sequence)
    assert backend.resident_bytes().kv == 0
