"""GPTQ: rounding a linear layer's weights so that later weights make up for the errors of earlier ones.

GPTQ is from Frantar et al., arXiv 2210.17323; this is its equivalent form by Chee et al., arXiv 2307.13304 (LDLQ),
which needs no inverse. With the Hessian H = F D F^T (F unit upper triangular, D diagonal), the squared error of the
layer's output is the sum over rows k of D_k times the squared entries of row k of F^T (W - Q). So the best choice for
row k, given the rows before it, is to round w_k + sum_{j<k} F_jk (w_j - q_j), and D_k says how much its rounding
error matters. Rows are input features, ordered by falling diagonal of the Hessian (act-order).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from flexquant.ensemble_builder.coordinate_descent import descend
from flexquant.ensemble_builder.exl2_pack import QuantizedLinear
from flexquant.ensemble_builder.row_groups import Group, groups_of
from flexquant.ensemble_builder.scale_search import (
    Scales,
    dequantize_codes,
    round_to_codes,
    scale_table,
    search_scales,
)
from flexquant.ensemble_builder.single_thread import single_thread, worthwhile_threads

DAMPING: Final = 0.01
"""Added to the Hessian's diagonal, relative to its mean."""
DESCENTS: Final = 2
"""Passes of coordinate descent after GPTQ."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """What rounding needs to know about the inputs of linear layers; layers with the same input share it.

    Args:
        permutation: int64 [in_features]; row r is input feature permutation[r].
        hessian: f32 [in_features, in_features], H above: damped, its rows and columns in the order of `permutation`.
        feedback: f32 [in_features, in_features], F above.
        importance: f32 [in_features], D above.
    """

    permutation: Tensor
    hessian: Tensor
    feedback: Tensor
    importance: Tensor


def curvature(hessian: Tensor, notice: Callable[[str], None], *, damping: float = DAMPING) -> Curvature:
    """Order and factorize a Hessian.

    Features that were always 0 get the damping alone as their diagonal: they are rounded to the nearest code.

    Args:
        hessian: f32 [in_features, in_features], finite: the sum of x x^T over the inputs x, up to a factor.
        notice: Is told when more damping was needed than asked for.
        damping: Added to the diagonal, relative to its mean.
    """
    diagonal = hessian.diagonal()
    mean = diagonal.double().mean().item()
    permutation = torch.argsort(diagonal, descending=True, stable=True)
    # Factorizing from the last row up is a Cholesky factorization of the flipped matrix.
    backward = permutation.flip(0)
    flipped = hessian[backward][:, backward].double()
    base = mean if mean > 0 else 1.0
    used = 0.0
    while True:
        flipped.diagonal().add_((damping - used) * base)
        used = damping
        factor, failed = torch.linalg.cholesky_ex(flipped)
        if not failed:
            break
        damping *= 10
        notice(f"the Hessian is not positive definite: its damping goes up from {used:g} to {damping:g}")
    root = factor.diagonal().clone()
    feedback = factor.div_(root).float().flip(0, 1)
    del factor  # before the next copy: these are the largest matrices of a build
    return Curvature(permutation, flipped.float().flip(0, 1), feedback, root.flip(0).square().float())


def quantize_linear(
    weight: Tensor, inputs: Curvature, widths: list[tuple[int, int]], group_size: int, bias: Tensor | None = None
) -> QuantizedLinear:
    """Quantize a linear layer.

    Args:
        weight: f32 [out_features, in_features], finite.
        inputs: Curvature of its inputs.
        widths: (bits, rows) of each section, widths descending, rows multiples of 32 that add up to in_features; the
            inputs that matter most come first.
        group_size: Rows that share scales; a multiple of 32.
        bias: [out_features], stored as float16.
    """
    weights = weight.T[inputs.permutation]  # [in, out]
    groups = groups_of(widths, group_size)
    with worthwhile_threads(weight.numel()):
        scales, signed, errors = _round(weights, inputs, groups)
        for _ in range(DESCENTS):
            descend(weights, inputs.hessian, groups, [found.values for found in scales], signed, errors)
    for group in groups:
        signed[group.start : group.start + group.rows] += 1 << (group.bits - 1)
    return QuantizedLinear(
        groups=groups,
        codes=signed.to(torch.uint8),
        scale_codes=torch.stack([found.codes for found in scales]),
        scale_max=torch.stack([found.maximum for found in scales]),
        permutation=inputs.permutation,
        bias=None if bias is None else bias.half(),
    )


def dequantized(linear: QuantizedLinear) -> Tensor:
    """Return the weights that a reader makes of a layer: f32 [out_features, in_features], in the model's order."""
    rows = torch.empty(linear.codes.shape, dtype=torch.float32)
    for number, group in enumerate(linear.groups):
        at = slice(group.start, group.start + group.rows)
        scales = scale_table(linear.scale_max[number])[linear.scale_codes[number].long()]
        rows[at] = dequantize_codes(linear.codes[at].float() - (1 << (group.bits - 1)), scales)
    return torch.empty_like(rows).index_copy_(0, linear.permutation, rows).T


def _round(weights: Tensor, inputs: Curvature, groups: Sequence[Group]) -> tuple[list[Scales], Tensor, Tensor]:
    """Run GPTQ.

    Args:
        weights: f32 [in_features, out_features], in packed row order.
        inputs: Curvature of the inputs.
        groups: The rows' groups.

    Returns:
        Scales of each group; signed codes, f32 like `weights`; and `weights` minus the dequantized weights.
    """
    errors, signed = torch.empty_like(weights), torch.empty_like(weights)
    scales = []
    for group in groups:
        first, end = group.start, group.start + group.rows
        feedback = inputs.feedback[:end, first:end]
        correction = feedback[:first].T @ errors[:first]
        # Where the group's weights would go if they were not rounded: what their scales should fit.
        ideal = torch.linalg.solve_triangular(feedback[first:].T, correction, upper=False, unitriangular=True)
        found = search_scales(weights[first:end] + ideal, inputs.importance[first:end], group.bits)
        values = weights[first:end] + correction
        with single_thread():
            for row in range(group.rows):
                at = first + row
                value = torch.addmv(values[row], errors[first:at].T, feedback[first:at, row])
                signed[at] = round_to_codes(value, found.values, group.bits)
                errors[at] = weights[at] - dequantize_codes(signed[at], found.values)
        scales.append(found)
    return scales, signed, errors
