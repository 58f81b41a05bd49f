"""A layer that is cut into slices gives the bits of the whole one, whichever variants its slices have."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.exl2.blocked_layout import BlockedLayout, staging_bytes
from flexquant.engine.exl2.spec import read_spec
from flexquant.engine.native.compute import _Filler
from flexquant.engine.tensor_index import TensorIndex
from support.exl2_fixtures import Exl2Layer, random_layer
from support.native_layers import NativeLayer, columns_of, each_kernels, multiply, needs_native, normal, using

pytestmark = needs_native

GROUPS = ([(8, 32)] * 5, [(4, 128), (3, 32)], [(6, 48), (2, 112)], [(5, 160)])
"""Of 160 inputs: units of whole groups, and a group that ends within a unit."""


@st.composite
def cuts(draw: st.DrawFn, outputs: int) -> list[tuple[int, int]]:
    """Slices that cover so many columns."""
    inner = draw(st.sets(st.sampled_from(range(32, outputs, 32)))) if outputs > 32 else set()
    return list(pairwise([0, *sorted(inner), outputs]))


def slice_of(layer: Exl2Layer, first: int, last: int) -> NativeLayer:
    return NativeLayer(columns_of(layer.tensors, first, last, layer.out_features), last - first)


@each_kernels
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_cut_or_not_the_bits_are_the_same(kernels: str, data: st.DataObject) -> None:
    outputs, rows, exact = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 19)), data.draw(st.booleans())
    layer = random_layer(data.draw(st.sampled_from(GROUPS)), outputs, bias=data.draw(st.booleans()))
    x = normal(rows, layer.in_features)
    with using(kernels, 2):
        parts = [slice_of(layer, first, last) for first, last in data.draw(cuts(outputs))]
        assert torch.equal(multiply(parts, x, exact=exact), NativeLayer.of(layer).multiply(x, exact=exact))


@each_kernels
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_slice_has_the_bits_of_its_variant(kernels: str, data: st.DataObject) -> None:
    """Variants with inputs in one order or several, of which some round them alike."""
    outputs, rows = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 19))
    variants = [random_layer(groups, outputs, seed=seed, bias=seed % 2 == 0) for seed, groups in enumerate(GROUPS)]
    for variant in variants[: data.draw(st.integers(1, len(variants)))]:
        variant.tensors["q_invperm"] = variants[0].tensors["q_invperm"]
    x = normal(rows, variants[0].in_features)
    parts, expected = [], []
    with using(kernels, 2):
        whole = [NativeLayer.of(variant).multiply(x) for variant in variants]
        for first, last in data.draw(cuts(outputs)):
            chosen = data.draw(st.integers(0, len(variants) - 1))
            parts.append(slice_of(variants[chosen], first, last))
            expected.append(whole[chosen][:, first:last])
        assert torch.equal(multiply(parts, x), torch.cat(expected, dim=1))


def test_a_layer_of_many_slices() -> None:
    """More than an item of the kernels spans."""
    layer = random_layer([(3, 128)], 32 * 100 + 7, bias=True)
    x = normal(9, layer.in_features)
    columns = pairwise([*range(0, layer.out_features, 32), layer.out_features])
    with using(threads=2):
        parts = [slice_of(layer, first, last) for first, last in columns]
        assert len(parts) == 101
        assert torch.equal(multiply(parts, x), NativeLayer.of(layer).multiply(x))


@each_kernels
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_slices_of_a_file_are_those_of_the_layer(
    kernels: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Read by as little as the loader can, and repacked, a slice lies as if it had been a layer by itself."""
    outputs, bias = data.draw(st.integers(1, 300)), data.draw(st.booleans())
    layer = random_layer(data.draw(st.sampled_from(GROUPS)), outputs, bias=bias)
    folder = tmp_path_factory.mktemp("slices")
    layer.write(folder)
    whole = read_spec(TensorIndex.open(folder), "layer", in_features=layer.in_features, out_features=outputs, bias=bias)
    with using(kernels, 1):
        for first, last in data.draw(cuts(outputs)):
            spec = whole.sliced((first, last))
            expected = slice_of(layer, first, last)
            size = expected.layout.size_bytes
            assert BlockedLayout(spec).size_bytes == size
            buffer = bytearray(b"\xaa" * size)
            _Filler(staging_bytes(spec), lambda: None)(spec, memoryview(buffer))
            assert bytes(buffer) == expected.memory()[:size].numpy().tobytes()
