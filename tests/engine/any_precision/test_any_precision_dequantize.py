"""The torch reference against the format's rules in NumPy, where the layers come from arenas as they are on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.any_precision import dequantize as module
from flexquant.engine.any_precision.dequantize import (
    AnyPrecisionMatrix,
    dequantize,
    linear,
    matrix_from,
    reconstruct,
    scratch_bytes,
    unpack_codes,
)
from flexquant.engine.any_precision.spec import AnyPrecisionSpec
from flexquant.engine.disk_layout import ALIGNMENT, layout, size_bytes
from flexquant.engine.tensor_index import read_into
from support.any_precision_layers import AnyPrecisionLayer, layers, random_layer


def loaded(spec: AnyPrecisionSpec, place: int = 1) -> AnyPrecisionMatrix:
    """The matrix from memory, where it lies somewhere."""
    start = place * ALIGNMENT
    arena = torch.full((start + size_bytes(spec),), 0xAA, dtype=torch.uint8)
    for entry, offset in layout(spec):
        read_into(entry, arena.numpy().data[start + offset : start + offset + entry.nbytes])
    return matrix_from(spec, arena, start)


@settings(deadline=None, max_examples=40)
@given(layer=layers(), data=st.data())
def test_every_level_has_its_weights(
    tmp_path_factory: pytest.TempPathFactory, layer: AnyPrecisionLayer, data: st.DataObject
) -> None:
    chain = [loaded(spec) for spec in layer.specs(tmp_path_factory.mktemp("store"))]
    first = data.draw(st.integers(0, layer.out_features - 1))
    x = np.random.default_rng(0).standard_normal((3, layer.in_features)).astype(np.float32)
    for level in range(len(chain)):
        expected = layer.weights(level)
        found = dequantize(chain[: level + 1], slice(first, None))
        assert np.array_equal(found.numpy().view(np.int16), expected[first:].view(np.int16))
        assert np.array_equal(reconstruct(chain[: level + 1]).numpy(), expected.T)
        product = linear([chain[: level + 1]], torch.from_numpy(x)).numpy()
        assert np.allclose(product, layer.product(x, level), rtol=1e-3, atol=1e-4)


def test_a_code_of_fewer_bits_is_a_prefix(tmp_path: Path) -> None:
    chain = [loaded(spec) for spec in random_layer(96, 10, (2, 3, 5, 8)).specs(tmp_path)]
    codes = unpack_codes(chain)
    assert codes.shape == (10, 96)
    for level, bits in enumerate((2, 3, 5)):
        assert torch.equal(unpack_codes(chain[: level + 1]), codes >> (8 - bits))


def test_slices_add_up_to_the_layer(tmp_path: Path) -> None:
    """Each at a level of its own."""
    layer = random_layer(64, 100, (3, 4, 6), bias=True)
    specs = layer.specs(tmp_path)
    parts = [
        [loaded(spec.sliced(columns)) for spec in specs[:levels]]
        for columns, levels in [((0, 32), 1), ((32, 96), 3), ((96, 100), 2)]
    ]
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    found = linear(parts, torch.from_numpy(x)).numpy()
    products = [layer.product(x, level) for level in range(3)]
    expected = np.concatenate([products[0][:, :32], products[2][:, 32:96], products[1][:, 96:]], axis=1)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_tiles_do_not_change_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = random_layer(64, 33, (3, 4), bias=True)
    chain = [loaded(spec) for spec in layer.specs(tmp_path)]
    x = torch.ones((1, 64))
    whole = linear([chain], x)
    monkeypatch.setattr(module, "SCRATCH_BYTES", 7 * 10 * 64)
    assert scratch_bytes(64) == 7 * 10 * 64
    assert np.array_equal(dequantize(chain).numpy(), layer.weights())
    assert torch.allclose(linear([chain], x), whole, rtol=1e-5)


def test_views_are_of_the_arena(tmp_path: Path) -> None:
    (spec,) = random_layer(64, 32, (4,)).specs(tmp_path)
    arena = torch.zeros(size_bytes(spec), dtype=torch.uint8)
    matrix = matrix_from(spec, arena, 0)
    arena.fill_(0xFF)
    assert matrix.planes.eq(-1).all()
    assert matrix.planes.untyped_storage().data_ptr() == arena.data_ptr()
