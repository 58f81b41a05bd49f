"""Products with Any-Precision layers, and their weights, as the native kernels compute them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.any_precision_layers import AnyPrecisionLayer, layers, random_layer
from support.native_layers import KERNELS, each_kernels, multiply, needs_native, normal, using
from support.native_planes import NativePlanes, bound, sliced

pytestmark = needs_native


def relative(found: torch.Tensor, expected: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@each_kernels
@settings(deadline=None, max_examples=20)
@given(layer=layers(), data=st.data())
def test_every_weight_is_the_formats_bit_by_bit(kernels: str, layer: AnyPrecisionLayer, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, len(layer.widths) - 1))
    expected = torch.from_numpy(layer.weights(level).T.copy())
    with using(kernels):
        native = NativePlanes(layer, level)
        assert torch.equal(native.weights(torch.float16).view(torch.int16), expected.view(torch.int16))
        assert torch.equal(native.weights(torch.float32), expected.float())
        assert torch.equal(native.weights(torch.bfloat16), expected.bfloat16())


@each_kernels
@settings(deadline=None, max_examples=30)
@given(layer=layers(), rows=st.integers(1, 19), data=st.data())
def test_errors_are_those_of_rounding(kernels: str, layer: AnyPrecisionLayer, rows: int, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, len(layer.widths) - 1))
    x = normal(rows, layer.in_features, data.draw(st.integers(0, 1000)))
    x[rows // 2] *= data.draw(st.sampled_from([0.0, 1e-20, 1e4]))
    wanted = layer.product(x.numpy(), level)
    sizes = np.abs(x.numpy()).astype(np.float64) @ np.abs(layer.weights(level).astype(np.float64)).T
    with using(kernels):
        native = NativePlanes(layer, level)
        assert (np.abs(native.multiply(x).numpy() - wanted) <= bound(layer, x, level)).all()
        assert (np.abs(native.multiply(x, exact=True).numpy() - wanted) <= 1e-5 * sizes + 1e-6 * np.abs(wanted)).all()


@each_kernels
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_by_every_number_of_rows(kernels: str, bits: int) -> None:
    """With many outputs nothing cancels by chance: the error is relative to the product itself."""
    layer, x = random_layer(480, 150, (bits,), seed=bits), normal(8, 480)
    with using(kernels, threads=2):
        native = NativePlanes(layer)
        for rows in range(1, 9):
            error = relative(native.multiply(x[:rows]), layer.product(x[:rows].numpy()))
            assert 1e-3 < error <= 1e-2  # less than a tenth of a percent would mean that nothing was rounded


@each_kernels
@settings(deadline=None, max_examples=15)
@given(layer=layers(), rows=st.integers(1, 20), data=st.data())
def test_a_row_is_the_same_bits_in_any_company_and_on_any_threads(
    kernels: str, layer: AnyPrecisionLayer, rows: int, data: st.DataObject
) -> None:
    x = normal(rows, layer.in_features)
    x[rows // 2] *= 1e4
    row = data.draw(st.integers(0, rows - 1))
    with using(kernels):
        native = NativePlanes(layer)
        for exact in (False, True):
            alone = native.multiply(x[row : row + 1], exact=exact)
            for threads in (1, 2):
                with using(threads=threads):
                    together = native.multiply(x, exact=exact)
                assert torch.equal(together[row : row + 1], alone)


@pytest.mark.skipif(len(KERNELS) < 2, reason="there is nobody to agree with")
@settings(deadline=None, max_examples=20)
@given(layer=layers(), rows=st.integers(1, 10))
def test_all_kernels_agree(layer: AnyPrecisionLayer, rows: int) -> None:
    """Sums of four products are whole numbers, the same for all; floats differ in rounding only."""
    x = normal(rows, layer.in_features)
    found, memory = [], []
    for kernels in KERNELS:
        with using(kernels):
            native = NativePlanes(layer)
            found.append(native.multiply(x))
            memory.append(native.memory())
    sizes = np.abs(x.numpy()) @ np.abs(layer.weights().astype(np.float32)).T + np.abs(layer.product(x.numpy()))
    for other, arenas in zip(found[1:], memory[1:], strict=True):
        assert all(map(torch.equal, arenas, memory[0]))
        assert ((other - found[0]).abs().numpy() <= 2e-6 * sizes + 1e-12).all()


@each_kernels
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_cut_or_not_the_bits_are_the_same(kernels: str, data: st.DataObject) -> None:
    """Slices that have all planes, and slices of which each is at a level of its own."""
    outputs, rows = data.draw(st.integers(33, 200)), data.draw(st.integers(1, 9))
    layer = random_layer(96, outputs, (3, 4, 6), bias=data.draw(st.booleans()))
    inner = data.draw(st.sets(st.sampled_from(range(32, outputs, 32))))
    x = normal(rows, 96)
    parts, expected = [], []
    with using(kernels, 2):
        whole = [NativePlanes(layer, level).multiply(x) for level in range(3)]
        for first, last in pairwise([0, *sorted(inner), outputs]):
            level = data.draw(st.integers(0, 2))
            parts.append(NativePlanes(sliced(layer, first, last), level))
            expected.append(whole[level][:, first:last])
        assert torch.equal(multiply(parts, x), torch.cat(expected, dim=1))


@each_kernels
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_sums_of_bytes_do_not_overflow(kernels: str, bits: int, sign: float) -> None:
    """Weights at both ends of a table with the largest activations, of one sign and of both."""
    layer = random_layer(64, 32, (bits,))
    table = layer.tensors[0]["table"]
    table[:, 0], table[:, -1] = -1, 1
    x = torch.full((3, 64), sign)
    x[1, ::2], x[2, 1::4] = -sign, -sign
    with using(kernels):
        for code in (0, -1):
            planes = np.full((bits, 32, 2), code, np.int32)
            alike = AnyPrecisionLayer(64, 32, (bits,), [{"planes": planes, "table": table}])
            found = NativePlanes(alike).multiply(x).numpy()
            assert np.abs(found - alike.product(x.numpy())).max() <= 1e-5 * 64


@each_kernels
def test_zeros_give_the_bias(kernels: str) -> None:
    layer = random_layer(96, 37, (3, 5), bias=True)
    bias = torch.from_numpy(layer.tensors[0]["bias"]).float()
    with using(kernels):
        assert torch.equal(NativePlanes(layer).multiply(torch.zeros(3, 96)), bias.expand(3, -1))
        layer.tensors[1]["table"][:] = 0
        assert torch.equal(NativePlanes(layer).multiply(normal(3, 96)), bias.expand(3, -1))


@settings(deadline=None, max_examples=25)
@given(layer=layers())
def test_staging_memory_does_not_show_and_everything_is_written(layer: AnyPrecisionLayer) -> None:
    plenty, scarce = NativePlanes(layer), NativePlanes(layer, staging=None)
    other = NativePlanes(layer, fill=0x55)
    for layout, first, second, third in zip(
        plenty.layouts, plenty.memory(), scarce.memory(), other.memory(), strict=True
    ):
        size = layout.size_bytes
        assert torch.equal(first, second)
        assert first[size:].eq(0xAA).all()
        assert third[size:].eq(0x55).all()
        unwritten = int((first[:size] != third[:size]).sum())
        assert unwritten < 64 * 3  # between table, scales and bias, and behind it


@settings(deadline=None, max_examples=25)
@given(layer=layers())
def test_parts_begin_at_cache_lines_and_lie_apart(layer: AnyPrecisionLayer) -> None:
    for layout in NativePlanes(layer).layouts:
        starts = [0, layout.table, layout.scales, layout.bias, layout.size_bytes]
        assert all(start % 64 == 0 for start in starts)
        assert starts == sorted(starts)
        columns, inputs = -(-layer.out_features // 16) * 16, -(-layer.in_features // 64) * 64
        planes = layout.planes * columns * inputs // 8
        assert 0 <= layout.bias - (planes + columns * (2 << layout.spec.bits) + 4 * columns) < 128
