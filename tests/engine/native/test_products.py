"""Products with a layer, and its weights, as the native kernels compute them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.exl2_fixtures import WIDTHS, Exl2Layer, layers, pack_codes, random_layer
from support.native_layers import KERNELS, NativeLayer, Product, each_kernels, needs_native, normal, units_of, using

pytestmark = needs_native

MIXED = [(8, 64), (5, 128), (4, 32), (3, 96), (6, 16), (2, 48)]
"""All widths, with groups of whole units, of one and a half, and of half a unit."""


def product(layer: Exl2Layer, x: Tensor) -> Product:
    return Product(layer.tensors, layer.out_features, x)


# --- weights


@each_kernels
@settings(deadline=None, max_examples=15)
@given(layer=layers())
def test_every_weight_is_the_formats_bit_by_bit(kernels: str, layer: Exl2Layer) -> None:
    expected = torch.from_numpy(layer.weights())
    with using(kernels):
        native = NativeLayer.of(layer)
        assert torch.equal(native.weights(torch.float16).view(torch.int16), expected.view(torch.int16))
        assert torch.equal(native.weights(torch.float32), expected.float())
        # Of bfloat16 the last bit is rounded to nearest, to even between two, as torch does.
        assert torch.equal(native.weights(torch.bfloat16), expected.bfloat16())


@each_kernels
@settings(deadline=None, max_examples=10)
@given(layer=layers(), data=st.data())
def test_blocks_are_a_part_of_the_whole(kernels: str, layer: Exl2Layer, data: st.DataObject) -> None:
    with using(kernels, threads=2):
        native = NativeLayer.of(layer)
        first = data.draw(st.integers(0, native.layout.blocks - 1))
        last = data.draw(st.integers(first + 1, native.layout.blocks))
        whole, part = native.weights(torch.float16), native.weights(torch.float16, first, last)
    assert torch.equal(part, whole[:, 16 * first : 16 * last])


@each_kernels
@pytest.mark.parametrize("bits", WIDTHS)
def test_no_bit_leaks_into_a_neighbour(kernels: str, bits: int) -> None:
    layer = random_layer([(bits, 96)], 96)
    layer.tensors["q_scale_max"] = np.array([1.0], dtype=np.float16)
    codes = np.zeros((96, 96), dtype=np.uint8)
    np.fill_diagonal(codes, (1 << bits) - 1)  # every row is alone in one column
    layer.tensors["q_weight"] = pack_codes(codes, bits).view(np.int32)
    layer.codes[:] = codes
    with using(kernels):
        assert torch.equal(NativeLayer.of(layer).weights(torch.float32), torch.from_numpy(layer.weights()).float())


# --- errors of products


@each_kernels
@settings(deadline=None, max_examples=20)
@given(layer=layers(), rows=st.integers(1, 20), seed=st.integers(0, 1000))
def test_products_without_rounding_are_exact_to_1e_5(kernels: str, layer: Exl2Layer, rows: int, seed: int) -> None:
    x = normal(rows, layer.in_features, seed)
    with using(kernels):
        found = NativeLayer.of(layer).multiply(x, exact=True)
    bias = np.linalg.norm(layer.tensors.get("bias", np.zeros(1)).astype(np.float64))
    wanted = product(layer, x)
    # Adding the bias rounds too: that is no error of the product, which can be 1e-6 of the bias.
    assert wanted.typical_error(found) <= 1e-5 or np.linalg.norm(found - wanted.result) <= 1e-7 * rows * bias


@each_kernels
@settings(deadline=None, max_examples=20)
@given(layer=layers(), seed=st.integers(0, 1000))
def test_rounded_activations_cost_less_than_one_percent(kernels: str, layer: Exl2Layer, seed: int) -> None:
    x = normal(20, layer.in_features, seed)
    with using(kernels):
        found = NativeLayer.of(layer).multiply(x)
    bias = np.linalg.norm(layer.tensors.get("bias", np.zeros(1)).astype(np.float64))
    wanted = product(layer, x)
    assert wanted.typical_error(found) <= 1e-2 or np.linalg.norm(found - wanted.result) <= 1e-7 * 20 * bias


@each_kernels
@pytest.mark.parametrize("bits", WIDTHS)
def test_errors_of_wide_layers_by_width(kernels: str, bits: int) -> None:
    """With many outputs nothing cancels by chance: the error is relative to the product itself."""
    layer, x = random_layer([(bits, 32)] * 16, 150, seed=bits), normal(11, 512)
    with using(kernels, threads=2):
        native = NativeLayer.of(layer)
        rounded, exact = (product(layer, x).error(native.multiply(x, exact=exact)) for exact in (False, True))
    print(f"{kernels}, {bits} bits: {rounded:.2e} with int8 activations, {exact:.2e} without")  # noqa: T201  # for -s
    assert exact <= 1e-5
    assert 1e-3 < rounded <= 1e-2  # less than a tenth of a percent would mean that nothing was rounded


@st.composite
def activations(draw: st.DrawFn, rows: int, inputs: int) -> Tensor:
    """Activations whose units differ in size, with outliers, zeros and whole units of zeros."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    x = random.standard_normal((rows, inputs))
    x *= 10.0 ** random.uniform(-6, 3, (rows, 1))
    x[:, random.random(inputs) < draw(st.sampled_from([0, 0.1, 0.9]))] = 0
    x[:, random.random(inputs) < draw(st.sampled_from([0, 0.02]))] *= 1e4
    first = draw(st.integers(0, inputs))
    x[:, first : first + draw(st.sampled_from([0, 32, 96]))] = 0
    return torch.from_numpy(x.astype(np.float32))


@each_kernels
@settings(deadline=None, max_examples=20)
@given(layer=layers(), data=st.data())
def test_rounding_costs_at_most_half_a_step_of_each_unit(kernels: str, layer: Exl2Layer, data: st.DataObject) -> None:
    x = data.draw(activations(data.draw(st.integers(1, 9)), layer.in_features))
    with using(kernels):
        native = NativeLayer.of(layer)
        found = native.multiply(x).numpy()
    wanted = product(layer, x)
    float_rounding = 1e-5 * wanted.sizes() + 1e-6 * np.abs(wanted.result)
    assert (np.abs(found - wanted.result) <= wanted.half_steps(units_of(native.spec)) + float_rounding).all()


@each_kernels
def test_an_outlier_costs_its_own_unit_alone(kernels: str) -> None:
    layer, x = random_layer([(4, 32)] * 8, 48), normal(3, 256)
    packed = np.argsort(layer.tensors["q_invperm"])
    first = packed[:32]
    x[:, packed[5]] *= 1e4
    others = x.clone()
    others[:, first] = 0
    with using(kernels):
        native = NativeLayer.of(layer)
        assert product(layer, x).error(native.multiply(x)) <= 1e-2
        of_unit = x - others
        # What the units without the outlier add is as good as if it were not there.
        added = (native.multiply(x).double() - native.multiply(of_unit).double()).numpy()
    wanted = product(layer, others).result
    assert np.linalg.norm(added - wanted) <= 1e-2 * np.linalg.norm(wanted)


@each_kernels
@pytest.mark.parametrize("exact", [False, True])
def test_zero_activations_give_the_bias(kernels: str, exact: bool) -> None:
    layer = random_layer(MIXED, 37, bias=True)
    with using(kernels):
        found = NativeLayer.of(layer).multiply(torch.zeros(3, layer.in_features), exact=exact)
    assert torch.equal(found, torch.from_numpy(layer.tensors["bias"]).float().expand(3, -1))


@each_kernels
@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e20, 1e35])
def test_errors_are_in_proportion_to_the_activations(kernels: str, size: float) -> None:
    layer, x = random_layer([(8, 32)] * 4, 80, largest=0.02), (normal(9, 128).double() * size).float()
    with using(kernels):
        assert product(layer, x).error(NativeLayer.of(layer).multiply(x)) <= 1e-2


@each_kernels
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-37])
def test_activations_too_small_to_be_rounded_count_for_nothing(kernels: str, size: float) -> None:
    """127 / 1e-37 is infinite."""
    layer, x = random_layer([(8, 32)] * 2, 16, largest=1.0), (normal(2, 64).double() * size).float()
    x[:, ::3] = 0
    with using(kernels):
        assert (NativeLayer.of(layer).multiply(x).abs() < 1e-25).all()


@each_kernels
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("code", ["lowest", "highest"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_sums_of_bytes_do_not_overflow(kernels: str, bits: int, code: str, sign: float) -> None:
    layer = random_layer([(bits, 64)], 32, largest=1.0)
    layer.codes[:] = 0 if code == "lowest" else (1 << bits) - 1
    layer.tensors["q_weight"] = pack_codes(layer.codes, bits).view(np.int32)
    x = torch.full((9, 64), sign)
    with using(kernels):
        assert product(layer, x).typical_error(NativeLayer.of(layer).multiply(x)) <= 1e-6  # 1 is 127/127, without error


# --- who shares a pass, and who computes


@each_kernels
@settings(deadline=None, max_examples=15)
@given(layer=layers(), rows=st.integers(1, 20), data=st.data())
def test_a_row_is_the_same_bits_in_any_company_and_on_any_threads(
    kernels: str, layer: Exl2Layer, rows: int, data: st.DataObject
) -> None:
    x = normal(rows, layer.in_features)
    x[rows // 2] *= 1e4
    row = data.draw(st.integers(0, rows - 1))
    with using(kernels):
        native = NativeLayer.of(layer)
        for exact in (False, True):
            alone = native.multiply(x[row : row + 1], exact=exact)
            for threads in (1, 2, 3):
                with using(threads=threads):
                    together = native.multiply(x, exact=exact)
                assert torch.equal(together[row : row + 1], alone)


@pytest.mark.skipif(len(KERNELS) < 2, reason="there is nobody to agree with")
@settings(deadline=None, max_examples=20)
@given(layer=layers(), rows=st.integers(1, 20))
def test_all_kernels_agree(layer: Exl2Layer, rows: int) -> None:
    """Codes of activations and their sums are whole numbers, the same for all; floats differ in rounding only."""
    x = normal(rows, layer.in_features)
    found, memory = [], []
    for kernels in KERNELS:
        with using(kernels):
            native = NativeLayer.of(layer)
            found.append(native.multiply(x))
            memory.append(native.memory())
    sizes = torch.from_numpy(product(layer, x).sizes()) + 1e-2
    for other, layout in zip(found[1:], memory[1:], strict=True):
        assert torch.equal(layout, memory[0])
        assert ((other - found[0]).abs() <= 1e-5 * sizes).all()


@each_kernels
@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 31, 33, 47])
def test_padding_columns_never_leak(kernels: str, outputs: int) -> None:
    """Their codes and scales are random; the results are those of a layer that has nothing there."""
    layer, x = random_layer(MIXED, outputs, bias=True, seed=outputs), normal(9, sum(rows for _, rows in MIXED))
    emptied = {suffix: array.copy() for suffix, array in layer.tensors.items()}
    codes = layer.codes.copy()
    codes[:, outputs:] = 0
    starts = np.cumsum([0, *(rows for _, rows in MIXED)])
    parts = [pack_codes(codes[start : start + rows], bits) for start, (bits, rows) in zip(starts, MIXED, strict=False)]
    emptied["q_weight"] = np.concatenate(parts).view(np.int32)
    with using(kernels):
        found = NativeLayer.of(layer).multiply(x)
        assert torch.equal(found, NativeLayer(emptied, outputs).multiply(x))
    assert product(layer, x).typical_error(found) <= 1e-2


@each_kernels
def test_a_bias_padded_like_the_columns_is_the_same(kernels: str) -> None:
    layer, x = random_layer([(4, 64)], 20, bias=True), normal(2, 64)
    padded = layer.tensors | {"bias": np.pad(layer.tensors["bias"], (0, 12), constant_values=9)}
    with using(kernels):
        assert torch.equal(NativeLayer(padded, 20).multiply(x), NativeLayer.of(layer).multiply(x))
