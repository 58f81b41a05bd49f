"""GPTQ: the factorization, the textbook algorithm, and what it is good for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexquant.ensemble_builder import gptq
from flexquant.ensemble_builder.exl2_pack import QuantizedLinear
from flexquant.ensemble_builder.gptq import curvature, quantize_linear
from flexquant.ensemble_builder.row_groups import WIDTHS
from flexquant.ensemble_builder.scale_search import dequantize_codes, round_to_codes, scale_table, search_scales


def ignore(_text: str) -> None:
    """Take a notice that is expected to be of no interest."""


def fail(text: str) -> None:
    pytest.fail(text)


def correlated_hessian(features: int, seed: int = 0) -> Tensor:
    """Return the Hessian of inputs that depend on each other and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator) / features**0.5
    noise = 0.3 * torch.randn(8 * features, features, generator=generator)
    sizes = torch.exp(torch.randn(features, generator=generator))
    x = torch.addmm(noise, torch.randn(8 * features, features, generator=generator), mix) * sizes
    return x.T @ x


def dense(linear: QuantizedLinear) -> Tensor:
    """Return the layer's weights: f32 [out_features, in_features], inputs in their own order."""
    rows = []
    for at, group in enumerate(linear.groups):
        scales = scale_table(linear.scale_max[at])[linear.scale_codes[at].long()]
        signed = linear.codes[group.start : group.start + group.rows].float() - (1 << (group.bits - 1))
        rows.append(dequantize_codes(signed, scales))
    return torch.cat(rows)[torch.argsort(linear.permutation)].T


def output_error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    off = (weight - quantized).double()
    return ((off @ hessian.double()) * off).sum().item()


def rounded_to_nearest(weight: Tensor, bits: int) -> Tensor:
    """Return weights of f32 [out, in] rounded group by group, without regard to the inputs."""
    groups = []
    for values in torch.split(weight.T, 32):
        scales = search_scales(values, torch.ones(len(values)), bits).values
        groups.append(dequantize_codes(round_to_codes(values, scales, bits), scales))
    return torch.cat(groups).T


@given(features=st.sampled_from([32, 64, 96]), seed=st.integers(0, 1000), damping=st.sampled_from([0.001, 0.01, 0.1]))
@settings(deadline=None, max_examples=25)
def test_the_factors_multiply_to_the_damped_ordered_hessian(features: int, seed: int, damping: float) -> None:
    hessian = correlated_hessian(features, seed)
    found = curvature(hessian, fail, damping=damping)
    diagonal = hessian.diagonal()
    assert (diagonal[found.permutation].diff() <= 0).all()
    damped = hessian.double() + damping * diagonal.double().mean() * torch.eye(features, dtype=torch.float64)
    ordered = damped[found.permutation][:, found.permutation]
    feedback = found.feedback.double()
    assert torch.equal(feedback.tril(), torch.eye(features, dtype=torch.float64))
    product = feedback @ torch.diag(found.importance.double()) @ feedback.T
    assert (product - ordered).abs().max() <= 1e-5 * ordered.abs().max()
    assert (found.hessian.double() - ordered).abs().max() <= 1e-5 * ordered.abs().max()


@pytest.mark.parametrize("bits", [2, 4])
def test_codes_are_those_of_the_textbook_algorithm(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frantar et al., algorithm 1: inverse Hessian, its upper Cholesky factor, updates of the weights to come."""
    monkeypatch.setattr(gptq, "DESCENTS", 0)
    generator = torch.Generator().manual_seed(1)
    weight = 0.02 * torch.randn(24, 96, generator=generator)
    inputs = curvature(correlated_hessian(96), fail)
    linear = quantize_linear(weight, inputs, [(bits, 96)], 32)

    upper = torch.linalg.cholesky(torch.linalg.inv(inputs.hessian.double()), upper=True)
    weights = weight.T[inputs.permutation].double()
    codes = torch.empty_like(weights)
    for first in range(0, 96, 32):
        importance = upper.diagonal()[first : first + 32] ** -2
        scales = search_scales(weights[first : first + 32].float(), importance.float(), bits).values
        for row in range(first, first + 32):
            codes[row] = round_to_codes(weights[row].float(), scales, bits)
            error = (weights[row] - dequantize_codes(codes[row].float(), scales)) / upper[row, row]
            weights[row:] -= torch.outer(upper[row, row:], error)
    assert torch.equal(linear.codes, (codes + (1 << (bits - 1))).to(torch.uint8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_outputs_are_closer_than_with_rounding_to_nearest(bits: int) -> None:
    hessian = correlated_hessian(128)
    weight = 0.02 * torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
    linear = quantize_linear(weight, curvature(hessian, fail), [(bits, 128)], 32)
    plain = output_error(weight, rounded_to_nearest(weight, bits), hessian)
    assert output_error(weight, dense(linear), hessian) < 0.6 * plain


@given(bits=st.sampled_from(WIDTHS), size=st.sampled_from([1e-6, 1e-4, 0.02, 3.0]), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_without_correlation_every_code_is_the_nearest_that_a_reader_can_make(
    bits: int, size: float, seed: int
) -> None:
    weight = size * torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))
    linear = quantize_linear(weight, curvature(torch.eye(64), fail), [(bits, 64)], 32)
    for at, group in enumerate(linear.groups):
        scales = scale_table(linear.scale_max[at])[linear.scale_codes[at].long()]
        rows = slice(group.start, group.start + group.rows)
        wanted = weight.T[linear.permutation[rows]]
        signed = linear.codes[rows].float() - (1 << (bits - 1))
        off = (dequantize_codes(signed, scales) - wanted).abs()
        for other in (signed - 1, signed + 1):
            allowed = (other >= -(1 << (bits - 1))) & (other < 1 << (bits - 1))
            other_off = (dequantize_codes(other, scales) - wanted).abs()
            # Products are rounded to half precision, so two neighbours can be as good as each other.
            assert ((off <= other_off + 2e-3 * wanted.abs() + 2**-24) | ~allowed).all()


def test_mixed_widths_give_the_first_inputs_more() -> None:
    hessian = correlated_hessian(128)
    weight = 0.02 * torch.randn(32, 128, generator=torch.Generator().manual_seed(3))
    inputs = curvature(hessian, fail)
    mixed = quantize_linear(weight, inputs, [(4, 64), (2, 64)], 32)
    assert [group.bits for group in mixed.groups] == [4, 4, 2, 2]
    assert mixed.codes[64:].max() < 4
    errors = [
        output_error(weight, dense(quantize_linear(weight, inputs, widths, 32)), hessian)
        for widths in ([(4, 128)], [(4, 64), (2, 64)], [(2, 128)])
    ]
    assert errors == sorted(errors)


def test_the_same_inputs_give_the_same_layer() -> None:
    weight = 0.02 * torch.randn(32, 64, generator=torch.Generator().manual_seed(4))
    first, second = (
        quantize_linear(weight, curvature(correlated_hessian(64), fail), [(3, 64)], 32, bias=torch.ones(32))
        for _ in range(2)
    )
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scale_codes, second.scale_codes)
    assert torch.equal(first.scale_max, second.scale_max)
    assert first.bias is not None
    assert first.bias.dtype == torch.float16


def test_inputs_that_were_never_seen_are_rounded_to_nearest_and_come_last() -> None:
    hessian = correlated_hessian(64)
    dead = torch.zeros(64, dtype=torch.bool)
    dead[10:42] = True
    hessian[dead] = 0
    hessian[:, dead] = 0
    weight = 0.02 * torch.randn(16, 64, generator=torch.Generator().manual_seed(5))
    linear = quantize_linear(weight, curvature(hessian, fail), [(4, 64)], 32)
    assert sorted(linear.permutation[32:].tolist()) == list(range(10, 42))
    assert (dense(linear) - weight)[:, dead].abs().max() < 0.02


def test_inputs_that_are_all_zero_are_no_obstacle() -> None:
    found = curvature(torch.zeros(32, 32), fail)
    assert math.isfinite(found.importance.sum().item())
    assert torch.equal(found.permutation, torch.arange(32))


def test_a_hessian_that_is_not_positive_definite_gets_more_damping_and_a_notice() -> None:
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = 1.05
    notices: list[str] = []
    found = curvature(hessian, notices.append)
    assert notices == ["the Hessian is not positive definite: its damping goes up from 0.01 to 0.1"]
    assert found.hessian.diagonal().tolist() == pytest.approx([1.1] * 32)
    assert found.feedback.isfinite().all()
