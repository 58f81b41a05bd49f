"""Coordinate descent on the codes of a quantized linear layer (Behdin et al., arXiv 2309.01885, QuantEase).

GPTQ chooses a row's codes before it knows the rows after it. Here every row is chosen again, with all others as they
are: the squared error of the layer's output never grows.
"""

from collections.abc import Sequence

from torch import Tensor

from flexquant.ensemble_builder.row_groups import Group
from flexquant.ensemble_builder.scale_search import dequantize_codes, round_to_codes
from flexquant.ensemble_builder.single_thread import single_thread


def descend(
    weights: Tensor, hessian: Tensor, groups: Sequence[Group], scales: Sequence[Tensor], signed: Tensor, errors: Tensor
) -> None:
    """Choose the codes of every row once more, in place.

    Args:
        weights: f32 [in_features, out_features].
        hessian: f32 [in_features, in_features], its rows in the order of the weights' rows.
        groups: The rows' groups.
        scales: f32 [out_features] of each group.
        signed: f32 [in_features, out_features], signed codes; changed.
        errors: f32 [in_features, out_features], weights minus dequantized weights; changed.
    """
    steepness = hessian.diagonal().tolist()
    for group, scale in zip(groups, scales, strict=True):
        rows = slice(group.start, group.start + group.rows)
        slope = hessian[rows] @ errors  # half the gradient of the squared error, up to its sign
        with single_thread():
            for row in range(group.rows):
                at = group.start + row
                best = (weights[at] - errors[at]).add_(slope[row], alpha=1 / steepness[at])
                signed[at] = round_to_codes(best, scale, group.bits)
                change = weights[at] - dequantize_codes(signed[at], scale) - errors[at]
                errors[at] += change
                slope[row + 1 :].addr_(hessian[at + 1 : rows.stop, at], change)
