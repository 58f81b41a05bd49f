import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flexquant.engine.exl2 import dequantize as module
from flexquant.engine.exl2.dequantize import Exl2Matrix, dequantize, linear, scratch_bytes, tile_columns, unpack_codes
from flexquant.engine.exl2.groups import runs
from flexquant.engine.torch_scratch import Scratch
from support.exl2_fixtures import WHOLE_WORDS, WIDTHS, Exl2Layer, layers, pack_codes, random_layer

PRESCALES = [1.0, 0.0625, 0.1, 1.7]


def matrix(layer: Exl2Layer) -> Exl2Matrix:
    """The layer's tensors, as a reader hands them over."""
    tensors = {suffix: torch.from_numpy(array.copy()) for suffix, array in layer.tensors.items()}
    table = layer.tensors["q_groups"].view(np.uint16).tolist()
    return Exl2Matrix(
        q_weight=tensors["q_weight"],
        q_scale=tensors["q_scale"],
        q_scale_max=tensors["q_scale_max"],
        q_invperm=tensors["q_invperm"],
        bias=tensors.get("bias"),
        runs=runs(table, layer.in_features, len(tensors["q_weight"])),
        out_features=layer.out_features,
    )


def bits_of(weights: Tensor) -> Tensor:
    """Half-precision numbers as their bit patterns, so that comparing them is exact."""
    return weights.view(torch.int16)


def expected_bits(layer: Exl2Layer, prescale: float = 1.0) -> Tensor:
    return bits_of(torch.from_numpy(layer.weights(prescale)))


@settings(deadline=None, max_examples=60)
@given(layers(), st.sampled_from(PRESCALES))
def test_every_code_and_weight_is_the_formats(layer: Exl2Layer, prescale: float) -> None:
    assert torch.equal(unpack_codes(matrix(layer)), torch.from_numpy(layer.codes))
    assert torch.equal(bits_of(dequantize(matrix(layer), prescale)), expected_bits(layer, prescale))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("pattern", ["zeros", "ones", "single"])
def test_no_bit_leaks_into_a_neighbour(bits: int, pattern: str) -> None:
    rows = max(32, WHOLE_WORDS[bits])
    layer = random_layer([(bits, rows)], 32)
    codes = np.zeros((rows, 32), dtype=np.uint8)
    if pattern == "ones":
        codes[:] = (1 << bits) - 1
    elif pattern == "single":
        np.fill_diagonal(codes, (1 << bits) - 1)  # every row is alone in one column
    layer.tensors["q_weight"] = pack_codes(codes, bits).view(np.int32)
    assert torch.equal(unpack_codes(matrix(layer)), torch.from_numpy(codes))


def test_small_scales_lose_bits_in_half_precision() -> None:
    layer = random_layer([(8, 32)], 32)
    layer.tensors["q_scale_max"] = np.array([0.001], dtype=np.float16)
    layer.scale_indices[:] = 15
    layer.tensors["q_scale"] = np.full((1, 4), -1, dtype=np.int32)  # sixteen in all eight columns
    layer.codes[:] = 129
    layer.tensors["q_weight"] = np.full((8, 32), 0x81818181, dtype=np.uint32).view(np.int32)
    found = dequantize(matrix(layer))
    # 0.001 / 256 is 65.5... units of the smallest half, 2^-24; it becomes 66 of them, times 256.
    assert set(found.flatten().tolist()) == {66 * 2.0**-16}
    assert found[0, 0].item() != np.float16(0.001)


@settings(deadline=None, max_examples=30)
@given(layers(), st.data())
def test_columns_are_a_part_of_the_whole(layer: Exl2Layer, data: st.DataObject) -> None:
    padded = layer.codes.shape[1]
    start = 8 * data.draw(st.integers(0, padded // 8 - 1))
    stop = data.draw(st.integers(start + 1, padded))
    columns = slice(start, stop)
    assert torch.equal(bits_of(dequantize(matrix(layer), columns=columns)), expected_bits(layer)[:, columns])
    assert torch.equal(unpack_codes(matrix(layer), columns), torch.from_numpy(layer.codes[:, columns]))


def test_columns_start_at_a_word_of_scales() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        dequantize(matrix(random_layer([(4, 32)], 32)), columns=slice(4, 16))


@settings(deadline=None, max_examples=30)
@given(layers(), st.sampled_from(PRESCALES), st.integers(1, 5))
def test_products_are_those_of_the_weights(layer: Exl2Layer, prescale: float, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, layer.in_features)).astype(np.float32)
    result = linear([[matrix(layer)]], torch.from_numpy(x), prescale)
    expected = layer.product(x, prescale)
    assert result.dtype == torch.float32
    assert result.shape == (rows, layer.out_features)
    assert np.allclose(result.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def sliced(whole: Exl2Matrix, first: int, last: int) -> Exl2Matrix:
    """Columns [first, last) of a layer; its padding goes with the last one."""
    end = whole.q_weight.shape[1] if last == whole.out_features else last
    return replace(
        whole,
        q_weight=whole.q_weight[:, first:end],
        q_scale=whole.q_scale[:, first // 8 : end // 8],
        bias=None if whole.bias is None else whole.bias[first:last],
        out_features=last - first,
    )


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_slices_of_different_variants_make_a_layer(data: st.DataObject) -> None:
    """Random cuts, every slice of a variant of its own, against the columns of the variants side by side."""
    outputs, bias = data.draw(st.integers(1, 260)), data.draw(st.booleans())
    variants = [
        random_layer(groups, outputs, seed=data.draw(st.integers(0, 99)), bias=bias)
        for groups in ([(8, 32)] * 5, [(4, 128), (3, 32)], [(2, 160)])
    ]
    if data.draw(st.booleans()):  # the inputs in one order, as our builder has them
        for variant in variants:
            variant.tensors["q_invperm"] = variants[0].tensors["q_invperm"]
    cuts = data.draw(st.sets(st.sampled_from(range(32, outputs, 32)))) if outputs > 32 else set()
    x = np.random.default_rng(outputs).standard_normal((3, 160)).astype(np.float32)
    parts, expected = [], []
    for first, last in pairwise([0, *sorted(cuts), outputs]):
        chosen = data.draw(st.sampled_from(variants))
        parts.append(sliced(matrix(chosen), first, last))
        expected.append(chosen.product(x)[:, first:last])
    found, wanted = linear([[part] for part in parts], torch.from_numpy(x)).numpy(), np.concatenate(expected, axis=1)
    assert found.shape == wanted.shape == (3, outputs)
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRATCH_BYTES", 1 << 20)
    monkeypatch.setattr(module, "scratch", Scratch())


@pytest.mark.usefixtures("small_tiles")
def test_tiles_do_not_show_in_the_result() -> None:
    layer = random_layer([(5, 128), (3, 128)] * 4, 330, bias=True)
    assert tile_columns(layer.in_features) < 330
    x = np.random.default_rng(0).standard_normal((2, layer.in_features)).astype(np.float32)
    assert np.allclose(linear([[matrix(layer)]], torch.from_numpy(x)).numpy(), layer.product(x), rtol=1e-4, atol=1e-4)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations there
    """Follows the bytes of all tensors that were made while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.peak = 0
        self._views: Counter[int] = Counter()
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            self._views[storage.data_ptr()] += 1
            self._bytes[storage.data_ptr()] = storage.nbytes()
            weakref.finalize(result, self._forget, storage.data_ptr())
            self.peak = max(self.peak, sum(self._bytes.values()))
        return result

    def _forget(self, pointer: int) -> None:
        self._views[pointer] -= 1
        if not self._views[pointer]:
            del self._bytes[pointer]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("bits", WIDTHS)
def test_scratch_stays_within_its_bound(bits: int) -> None:
    layer = matrix(random_layer([(bits, 32)] * 8, 1024))
    x = torch.randn(1, layer.in_features)
    unpack_codes(layer)  # fills the cache of shifts and masks
    with LiveBytes() as live:
        linear([[layer]], x)
    inputs_and_outputs = layer.q_weight.nbytes + layer.q_scale.nbytes + 4 * 1024
    assert live.peak > 0
    assert live.peak - inputs_and_outputs <= scratch_bytes(layer.in_features) == 1 << 20


@settings(deadline=None, max_examples=10)
@given(layers(), layers())
def test_what_scratch_held_before_does_not_matter(one: Exl2Layer, other: Exl2Layer) -> None:
    with torch.inference_mode():
        first = dequantize(matrix(one))
        second = dequantize(matrix(other))
    assert torch.equal(bits_of(first), expected_bits(one))
    assert torch.equal(bits_of(second), expected_bits(other))
    assert torch.equal(bits_of(dequantize(matrix(one))), expected_bits(one))


def test_threads_do_not_share_scratch() -> None:
    made = [random_layer([(5, 64), (3, 32)], 320, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for layer, found in zip(made, pool.map(dequantize, map(matrix, made)), strict=True):
                assert torch.equal(bits_of(found), expected_bits(layer))


def test_wide_inputs_take_what_they_need() -> None:
    assert tile_columns(1 << 20) == 32
    assert scratch_bytes(1 << 20) > module.SCRATCH_BYTES


def test_nothing_is_written_to_the_layer() -> None:
    layer = random_layer([(6, 64), (2, 32)], 64, bias=True)
    found = matrix(layer)
    linear([[found]], torch.randn(3, layer.in_features))
    unpack_codes(found)
    for suffix in ("q_weight", "q_scale", "q_scale_max", "q_invperm", "bias"):
        assert np.array_equal(getattr(found, suffix).numpy(), layer.tensors[suffix])
