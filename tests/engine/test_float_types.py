"""Every value of the 16-bit types, as torch reads it."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flexquant.engine.float_types import BITS, as_float32

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16}


@pytest.fixture
def patterns() -> NDArray[np.uint16]:
    """All 65,536 of them."""
    return np.arange(1 << 16, dtype=np.uint16)


@pytest.mark.parametrize("dtype", TORCH)
def test_all_patterns_of_16_bits_are_torchs_values(dtype: str, patterns: NDArray[np.uint16]) -> None:
    found = as_float32(patterns.view(BITS[dtype]), dtype)
    expected = torch.from_numpy(patterns).view(TORCH[dtype]).float().numpy()
    assert found.dtype == np.float32
    # The bits of a NaN are its own affair, its sign included; all else, zeros with theirs, is equal bit by bit.
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.isnan(found), ~numbers)
    assert np.array_equal(found[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    exponent_bits = {"F16": 5, "BF16": 8}[dtype]
    mantissas = 1 << (15 - exponent_bits)
    assert np.count_nonzero(~numbers) == 2 * (mantissas - 1), "all patterns of NaN are there"


def test_bfloat16_is_the_upper_half_of_float32(patterns: NDArray[np.uint16]) -> None:
    found = as_float32(patterns, "BF16").view(np.uint32)
    assert np.array_equal(found, patterns.astype(np.uint32) << 16)


def test_float32_stays_as_it_is_and_where_it_is() -> None:
    values = np.array([0.0, -0.0, 1.5, -np.inf, np.nan, 1e-45, 3e38], np.float32)
    bits = values.view(np.uint32)
    found = as_float32(bits, "F32")
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), bits)
    assert np.shares_memory(found, bits)


@pytest.mark.parametrize("dtype", TORCH)
def test_16_bits_become_a_copy(dtype: str, patterns: NDArray[np.uint16]) -> None:
    before = patterns.copy()
    as_float32(patterns, dtype).fill(7)
    assert np.array_equal(patterns, before)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("shape", [(3, 5), (1,), (0, 4), ()])
def test_shapes_are_kept(dtype: str, shape: tuple[int, ...]) -> None:
    found = as_float32(np.zeros(shape, BITS[dtype]), dtype)
    assert isinstance(found, np.ndarray)
    assert found.shape == shape
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", BITS)
def test_each_type_is_read_in_as_many_bits_as_it_has(dtype: str) -> None:
    sizes = {name: of.itemsize for name, of in TORCH.items()} | {"F32": 4}
    assert np.dtype(BITS[dtype]).itemsize == sizes[dtype]
    assert np.dtype(BITS[dtype]).kind == "u"
