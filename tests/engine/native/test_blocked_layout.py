"""The layout of a layer in an arena of the native kernels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.exl2.blocked_layout import BlockedLayout, staging_bytes
from flexquant.engine.exl2.spec import Exl2Spec
from support.exl2_fixtures import Exl2Layer, Groups, layers, random_layer
from support.native_layers import NativeLayer, each_kernels, needs_native, spec_of, units_of, using

LINE = 64


def spec(layer: Exl2Layer) -> Exl2Spec:
    return spec_of(layer.tensors, layer.out_features)


@settings(deadline=None, max_examples=30)
@given(layer=layers())
def test_parts_begin_at_cache_lines_and_lie_apart(layer: Exl2Layer) -> None:
    layout, tensors = BlockedLayout(spec(layer)), layer.tensors
    groups = len(layer.groups)
    sizes = [tensors["q_weight"].nbytes, tensors["q_scale"].nbytes, 32 * groups, 4 * layer.in_features]
    starts = [0, layout.scales, layout.tables, layout.perm, layout.bias]
    for start, size, following in zip(starts, sizes, starts[1:], strict=False):
        assert start % LINE == 0
        assert 0 <= following - (start + size) < LINE
    assert 0 <= layout.size_bytes - layout.bias - (2 * layer.out_features if layer.bias else 0) < LINE
    assert layout.size_bytes % LINE == 0


@settings(deadline=None, max_examples=30)
@given(layer=layers())
def test_tables_take_26_bytes_a_group_more_than_on_disk(layer: Exl2Layer) -> None:
    """q_scale_max and q_groups, 6 bytes, become 16 scales."""
    found = spec(layer)
    more = BlockedLayout(found).size_bytes - (found.payload + 26 * len(layer.groups))
    assert 0 <= more < 5 * LINE


@settings(deadline=None, max_examples=30)
@given(layer=layers())
def test_runs_count_groups_units_and_words(layer: Exl2Layer) -> None:
    found = spec(layer)
    layout = BlockedLayout(found)
    assert layout.units == len(units_of(found)) == sum(-(-rows // 32) for _, rows in layer.groups)
    group = unit = word = 0
    for run in layout.runs():
        assert (run.first_group, run.first_unit, run.first_word) == (group, unit, word)
        for bits, rows in layer.groups[group : group + run.groups]:
            assert (run.bits, run.rows_per_group) == (bits, rows)
            unit += -(-rows // 32)
            word += rows * bits // 32
        group += run.groups
    assert (group, word) == (layout.groups, layout.words) == (len(layer.groups), len(layer.tensors["q_weight"]))


@needs_native
@each_kernels
@settings(deadline=None, max_examples=15)
@given(layer=layers(), data=st.data())
def test_staging_memory_does_not_show_in_the_result(kernels: str, layer: Exl2Layer, data: st.DataObject) -> None:
    """Pieces of any size, down to the least, give the same bytes; and they are all that is written."""
    found = spec(layer)
    least = staging_bytes(found)
    with using(kernels):
        plenty, scarce, between = (
            NativeLayer(layer.tensors, layer.out_features, staging=staging).memory()
            for staging in (1 << 20, None, data.draw(st.integers(least, 4 * least)))
        )
        other = NativeLayer(layer.tensors, layer.out_features, fill=0x55).memory()
    size = BlockedLayout(found).size_bytes
    assert torch.equal(scarce, plenty)
    assert torch.equal(between, plenty)
    assert plenty[size:].eq(0xAA).all()
    assert other[size:].eq(0x55).all()
    written = int((plenty[:size] == other[:size]).sum())
    exact = found.payload + 26 * len(layer.groups)
    assert written == exact


@needs_native
def test_scales_come_in_pieces_too() -> None:
    """With so many groups and columns the least staging memory holds a part of the scales."""
    layer = random_layer([(2, 32)] * 20, 288)
    assert staging_bytes(spec(layer)) < layer.tensors["q_scale"].nbytes
    scarce = NativeLayer(layer.tensors, layer.out_features, staging=None)
    assert torch.equal(scarce.memory(), NativeLayer.of(layer).memory())
    assert torch.equal(scarce.weights(torch.float16), torch.from_numpy(layer.weights()))


@needs_native
def test_the_bytes_of_a_layer_by_hand() -> None:
    """Two groups of 4 bits: a word of eight codes is spread over bytes, scale indices over nibbles."""
    layer = random_layer([(4, 32), (4, 32)], 20, bias=True)
    memory = NativeLayer.of(layer).memory().numpy()
    layout = BlockedLayout(spec(layer))
    codes = layer.codes.reshape(8, 8, 2, 16).transpose(2, 0, 3, 1)  # [blocks, words, columns, rows of a word]
    low_and_high = codes[..., :4] | codes[..., 4:] << 4  # byte i holds rows i and 4 + i
    assert np.array_equal(memory[: layout.scales], low_and_high.reshape(-1))
    indices = layer.scale_indices.reshape(2, 2, 8, 2).transpose(1, 0, 3, 2)  # [blocks, groups, odd, pair]
    nibbles = (indices[..., 0::2] | indices[..., 1::2] << 4).astype(np.uint8)
    assert np.array_equal(memory[layout.scales : layout.scales + 32], nibbles.reshape(-1))
    roots = np.arange(1, 17)
    largest = (layer.tensors["q_scale_max"].astype(np.float32) / 256).astype(np.float16)
    tables = (roots * roots).astype(np.float16) * largest[:, None]
    assert np.array_equal(memory[layout.tables : layout.tables + 64].view(np.float16), tables.reshape(-1))
    permutation = memory[layout.perm : layout.perm + 256].view(np.int32)
    assert np.array_equal(permutation, np.argsort(layer.tensors["q_invperm"]))
    assert np.array_equal(memory[layout.bias : layout.bias + 40].view(np.float16), layer.tensors["bias"])


@needs_native
@pytest.mark.parametrize("broken", [[0, 1, 1, 3], [0, 1, 2, 64], [0, 1, 2, -1]])
def test_what_is_no_permutation_is_refused(broken: list[int]) -> None:
    layer = random_layer([(4, 64)], 32)
    layer.tensors["q_invperm"] = np.arange(64, dtype=np.int32)
    layer.tensors["q_invperm"][:4] = broken
    with pytest.raises(ValueError, match="no permutation"):
        NativeLayer.of(layer)


ORDERED: list[tuple[Groups, Groups, bool]] = [
    ([(4, 32)] * 4, [(8, 128)], True),  # groups of whole units: 32 rows each, whatever the groups
    ([(8, 64), (3, 64)], [(2, 96), (5, 32)], True),
    ([(8, 64), (4, 16), (2, 48)], [(8, 64), (4, 16), (2, 48)], True),
    ([(8, 64), (4, 16), (2, 48)], [(8, 64), (4, 48), (2, 16)], False),
    ([(4, 48), (4, 48), (4, 32)], [(4, 32)] * 4, False),
    ([(4, 48), (2, 48), (4, 32)], [(2, 48), (4, 48), (8, 32)], True),
]


@pytest.mark.parametrize(("one", "other", "same"), ORDERED)
def test_rounded_inputs_are_shared_when_order_and_units_agree(one: Groups, other: Groups, same: bool) -> None:
    first = spec(random_layer(one, 32))
    second = spec(random_layer(other, 48, seed=1))
    assert first.order != second.order
    assert BlockedLayout(first).rounding != BlockedLayout(second).rounding  # another order of rows
    alike = BlockedLayout(replace(second, order=first.order)).rounding
    if same:
        assert units_of(first) == units_of(second)
    assert (BlockedLayout(first).rounding == alike) == same
