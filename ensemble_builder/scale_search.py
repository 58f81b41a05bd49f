"""Scales of one EXL2 group: 4 bits per column below a maximum that the columns share.

Everything is computed with the scales that a reader reconstructs, rounding to float16 included (exllamav2 reads
`q_scale_max / 256` and every further product as float16).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

SCALE_STEPS: Final = 16
"""Scales of a group are q_scale_max * (step / 16)^2, step in 1..16."""
SMALLEST_MAX: Final = 2.0**-16
"""The smallest q_scale_max whose 256th part is not 0 in float16."""
LARGEST_MAX: Final = 65504.0
"""The largest finite float16."""
MAX_FACTORS: Final = (1.15, 1.09, 1.03, 0.97, 0.92, 0.87, 0.82, 0.77, 0.72)
"""Candidates for the largest scale, relative to that which just covers the largest weight."""
STEPS_TRIED: Final = 5
"""Neighbouring steps that are tried for each column: down to about 0.6 of the scale that covers its weights."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of one group.

    Args:
        maximum: f16 scalar, `q_scale_max`.
        codes: uint8 [columns], 0..15.
        values: f32 [columns], as a reader reconstructs them; all positive.
    """

    maximum: Tensor
    codes: Tensor
    values: Tensor


def scale_table(maximum: Tensor) -> Tensor:
    """Return the 16 scales below a maximum: f16 scalar -> f32 [16], ascending."""
    unit = (maximum.float() / 256).half().float()
    return (torch.arange(1, SCALE_STEPS + 1).square() * unit).half().float()


def round_to_codes(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return signed codes: the nearest multiples of the scales within the width's range.

    Args:
        values: f32 [..., columns].
        scales: f32 [columns].
        bits: Width of the codes.

    Returns:
        f32, whole numbers in -2^(bits-1) .. 2^(bits-1) - 1.
    """
    half = 1 << (bits - 1)
    return (values / scales).round_().clamp_(-half, half - 1)


def dequantize_codes(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the weights that a reader makes of signed codes: f32 that are exact in float16."""
    return (codes * scales).half().float()


def search_scales(values: Tensor, importance: Tensor, bits: int) -> Scales:
    """Find the scales with the least weighted squared error of rounding.

    Args:
        values: f32 [rows, columns], the group's weights.
        importance: f32 [rows], weight of a row's squared errors.
        bits: Width of the codes.
    """
    # The scale at which the codes just cover a column, one step beyond the positive end included.
    cover = values.abs().amax(dim=0) / (1 << (bits - 1))
    maxima = ((cover.max() * factor).clamp(SMALLEST_MAX, LARGEST_MAX).half() for factor in MAX_FACTORS)
    found = [_search_below(values, importance, bits, cover, maximum) for maximum in maxima]
    return min(found, key=lambda pair: pair[0])[1]


def _search_below(
    values: Tensor, importance: Tensor, bits: int, cover: Tensor, maximum: Tensor
) -> tuple[float, Scales]:
    """Find the best scale of every column below one maximum; return the error of the whole group with them."""
    table = scale_table(maximum)
    largest = torch.searchsorted(table, cover * MAX_FACTORS[0], right=True).clamp_(max=SCALE_STEPS - 1)
    errors = torch.full_like(cover, torch.inf)
    codes = largest
    for below in range(STEPS_TRIED):
        tried = (largest - below).clamp_(min=0)
        scales = table[tried]
        off = dequantize_codes(round_to_codes(values, scales, bits), scales).sub_(values).square_()
        found = importance @ off
        codes = torch.where(found < errors, tried, codes)
        errors = torch.minimum(found, errors)
    return errors.double().sum().item(), Scales(maximum, codes.to(torch.uint8), table[codes])
