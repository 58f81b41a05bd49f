from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.disk_layout import ALIGNMENT, layout, size_bytes
from flexquant.engine.exl2.dequantize import dequantize, linear, matrix_from
from flexquant.engine.exl2.spec import Exl2Spec, read_spec
from flexquant.engine.tensor_index import TensorIndex, read_into
from support.exl2_fixtures import Exl2Layer, layers, random_layer


def spec_of(layer: Exl2Layer, folder: Path) -> Exl2Spec:
    layer.write(folder)
    return read_spec(
        TensorIndex.open(folder),
        "layer",
        in_features=layer.in_features,
        out_features=layer.out_features,
        bias=layer.bias,
    )


@settings(deadline=None, max_examples=40)
@given(layer=layers(), place=st.integers(0, 5))
def test_a_layer_works_wherever_it_lies(tmp_path_factory: pytest.TempPathFactory, layer: Exl2Layer, place: int) -> None:
    spec = spec_of(layer, tmp_path_factory.mktemp("store"))
    start = place * ALIGNMENT
    arena = torch.full((start + size_bytes(spec),), 0xAA, dtype=torch.uint8)
    memory = arena.numpy().data
    for entry, offset in layout(spec):
        read_into(entry, memory[start + offset : start + offset + entry.nbytes])
    matrix = matrix_from(spec, arena, start)
    expected = torch.from_numpy(layer.weights())
    assert torch.equal(dequantize(matrix).view(torch.int16), expected.view(torch.int16))
    x = np.ones((1, layer.in_features), dtype=np.float32)
    product = layer.product(x)
    assert np.allclose(linear([[matrix]], torch.from_numpy(x)), product, rtol=1e-3, atol=1e-4 * np.abs(product).max())


@settings(deadline=None, max_examples=20)
@given(layer=layers())
def test_tensors_are_aligned_and_apart(tmp_path_factory: pytest.TempPathFactory, layer: Exl2Layer) -> None:
    spec = spec_of(layer, tmp_path_factory.mktemp("store"))
    placed = layout(spec)
    assert {entry.name for entry, _ in placed} == {f"layer.{suffix}" for suffix in layer.tensors}
    end = 0
    for entry, offset in placed:
        assert offset % ALIGNMENT == 0
        assert offset >= end
        end = offset + entry.nbytes
    assert end <= size_bytes(spec) < spec.payload + ALIGNMENT * len(placed)
    assert size_bytes(spec) % ALIGNMENT == 0


@settings(deadline=None, max_examples=20)
@given(layer=layers(), data=st.data())
def test_a_slice_is_a_layer_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, layer: Exl2Layer, data: st.DataObject
) -> None:
    first = 32 * data.draw(st.integers(0, (layer.out_features - 1) // 32))
    last = min(layer.out_features, first + 32 * data.draw(st.integers(1, 3)))
    spec = spec_of(layer, tmp_path_factory.mktemp("store")).sliced((first, last))
    arena = torch.full((size_bytes(spec),), 0xAA, dtype=torch.uint8)
    for entry, offset in layout(spec):
        read_into(entry, arena.numpy().data[offset : offset + entry.nbytes])
    matrix = matrix_from(spec, arena, 0)
    expected = torch.from_numpy(layer.weights()[:, first : first + spec.padded_out].copy())
    assert torch.equal(dequantize(matrix).view(torch.int16), expected.view(torch.int16))
    x = np.ones((1, layer.in_features), dtype=np.float32)
    product = layer.product(x)[:, first:last]
    found = linear([[matrix]], torch.from_numpy(x))
    assert np.allclose(found, product, rtol=1e-3, atol=1e-4 * np.abs(layer.product(x)).max())


def test_views_are_of_the_arena(tmp_path: Path) -> None:
    spec = spec_of(random_layer([(4, 64)], 32), tmp_path)
    arena = torch.zeros(size_bytes(spec), dtype=torch.uint8)
    matrix = matrix_from(spec, arena, 0)
    arena.fill_(0xFF)
    assert matrix.q_weight.eq(-1).all()
    assert matrix.q_weight.untyped_storage().data_ptr() == arena.data_ptr()
