"""Scales are those that a reader reconstructs, and good ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexquant.ensemble_builder.row_groups import WIDTHS
from flexquant.ensemble_builder.scale_search import dequantize_codes, round_to_codes, scale_table, search_scales

MAXIMA = st.floats(2**-16, 65504, width=16)


def column_errors(values: Tensor, importance: Tensor, scales: Tensor, bits: int) -> Tensor:
    off = dequantize_codes(round_to_codes(values, scales, bits), scales) - values
    return importance @ off.square()


@given(maximum=MAXIMA)
@settings(deadline=None)
def test_the_table_is_what_half_precision_arithmetic_makes_of_the_maximum(maximum: float) -> None:
    unit = np.float16(np.float32(maximum) * np.float32(1 / 256))
    steps = np.arange(1, 17)
    with np.errstate(over="ignore"):
        expected = (steps * steps).astype(np.float16) * unit
    table = scale_table(torch.tensor(maximum).half())
    assert table.tolist() == expected.astype(np.float32).tolist()
    assert (table > 0).all()


@given(bits=st.sampled_from(WIDTHS), size=st.floats(1e-7, 100), columns=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_found_scales_are_on_the_grid_and_positive(bits: int, size: float, columns: int, seed: int) -> None:
    values = size * torch.randn(32, columns, generator=torch.Generator().manual_seed(seed))
    found = search_scales(values, torch.ones(32), bits)
    assert torch.equal(found.values, scale_table(found.maximum)[found.codes.long()])
    assert (found.values > 0).all()
    assert found.values.isfinite().all()


@given(bits=st.sampled_from(WIDTHS), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_hardly_any_other_step_below_the_same_maximum_is_better(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = 0.02 * torch.randn(32, 48, generator=generator) * (0.2 + torch.rand(48, generator=generator))
    importance = torch.rand(32, generator=generator)
    found = search_scales(values, importance, bits)
    steps = [table_step.expand(48) for table_step in scale_table(found.maximum)]
    errors = torch.stack([column_errors(values, importance, step, bits) for step in steps])
    best = errors.amin(dim=0).sum()
    assert column_errors(values, importance, found.values, bits).sum() <= 1.03 * best


@pytest.mark.parametrize("bits", WIDTHS)
def test_searching_beats_scales_that_just_cover_the_weights(bits: int) -> None:
    values = 0.02 * torch.randn(32, 512, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(32)
    found = search_scales(values, ones, bits)
    cover = values.abs().amax(dim=0) / (1 << (bits - 1))
    table = scale_table(cover.max().half())
    above = table[torch.searchsorted(table, cover).clamp(max=15)]
    plain = column_errors(values, ones, above, bits).sum()
    assert column_errors(values, ones, found.values, bits).sum() < (0.95 if bits <= 4 else 1.0) * plain


def test_important_rows_decide() -> None:
    values = torch.tensor([[0.9], [0.31]]).repeat(16, 1)
    importance = torch.tensor([0.0, 1.0]).repeat(16)
    found = search_scales(values, importance, 4)
    fitted = dequantize_codes(round_to_codes(values, found.values, 4), found.values)
    assert (fitted - values)[1::2].abs().max() < 0.01


def test_a_group_of_zeros_has_scales_and_decodes_to_zeros() -> None:
    found = search_scales(torch.zeros(32, 3), torch.ones(32), 4)
    assert (found.values > 0).all()
    assert not dequantize_codes(round_to_codes(torch.zeros(32, 3), found.values, 4), found.values).any()
