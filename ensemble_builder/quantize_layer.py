"""Quantizes the linear layers of one decoder layer, or the head, to all levels."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import torch
from torch import Tensor

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.model_config import LinearShape
from flexquant.ensemble_builder.bit_allocation import Sections
from flexquant.ensemble_builder.exl2_pack import pack
from flexquant.ensemble_builder.gptq import Curvature, curvature, dequantized, quantize_linear
from flexquant.ensemble_builder.layer_inputs import ObservedWeights
from flexquant.ensemble_builder.shared_inputs import input_of

Plan = Mapping[str, Mapping[str, Sections]]
"""Sections of every linear layer: by level name, by key."""
Results = dict[str, dict[str, Tensor]]
"""EXL2 tensors: by level name, by tensor name."""


def quantize_layer(
    shapes: Iterable[LinearShape],
    weights: ObservedWeights,
    plan: Plan,
    group_size: int,
    *,
    nested: bool = False,
    notice: Callable[[str], None],
    done: Callable[[], None],
) -> Results:
    """Quantize linear layers whose inputs have been observed.

    Args:
        shapes: The linear layers in forward order.
        weights: Their weights and the Hessians of their inputs, which are taken.
        plan: The widths, of the best level first.
        group_size: Weights of a column that share a scale.
        nested: Whether a level's weights are what the next ones lack; its layers have no permutation and no bias of
            their own.
        notice: Is told what a person should know.
        done: Is called after each linear layer of each level.

    Raises:
        CheckpointError: A weight is not finite in float16.
        FlexQuantError: An input was not finite.
    """
    results: Results = {level: {} for level in plan}
    last = [*plan][-1]
    for first, sharing in groupby(shapes, key=lambda shape: input_of(shape.key)):
        inputs = _curvature_of(first, weights, notice)
        for shape in sharing:
            weight, bias = weights.weight_and_bias(shape.key)
            for level, sections in reversed([*plan.items()]):
                if shape.key in sections:
                    linear = quantize_linear(weight, inputs, sections[shape.key], group_size, bias)
                    packed = pack(linear)
                    if nested:
                        weight, bias = weight - dequantized(linear), None
                        if level != last:
                            del packed["q_invperm"]
                    results[level] |= {f"{shape.key}.{suffix}": tensor for suffix, tensor in packed.items()}
                done()
    return results


def _curvature_of(key: str, weights: ObservedWeights, notice: Callable[[str], None]) -> Curvature:
    hessian = weights.take_hessian(key)
    if not torch.isfinite(hessian).all():
        raise FlexQuantError(
            f"{key}: the calibration text makes activations that are not finite",
            hint="The checkpoint may be damaged; compare its hashes with the source.",
        )
    return curvature(hessian, lambda text: notice(f"{key}: {text}"))
