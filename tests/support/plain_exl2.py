"""Weights rounded to the nearest code, as EXL2 tensors: the plainest quantizer that there is, in numpy alone."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexquant.engine.fused_projections import with_separate_projections
from flexquant.engine.model_config import EMBEDDING, HEAD, LinearShape, ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from support.exl2_fixtures import WIDTHS, pack_codes

GROUP = 32

Tensors = dict[str, NDArray[np.generic]]


def converted_layer(checkpoint: Path, config: ModelConfig, shape: LinearShape, bits: float) -> Tensors:
    """The tensors of a layer of an unquantized checkpoint, by name, at the widest codes of `bits` bits at most."""
    index = with_separate_projections(TensorIndex.open(checkpoint), config.linears())
    tied = shape.key == HEAD and config.tied_head
    weight = index.floats(EMBEDDING if tied else f"{shape.key}.weight")
    found = round_to_nearest(weight, max(width for width in WIDTHS if width <= bits))
    if shape.bias:
        found["bias"] = index.floats(f"{shape.key}.bias").astype(np.float16)
    return {f"{shape.key}.{suffix}": tensor for suffix, tensor in found.items()}


def round_to_nearest(weight: NDArray[np.float32], bits: int) -> Tensors:
    """The tensors of a weight f32 [outputs, inputs], by suffix; the order of its inputs is turned around."""
    rows = np.ascontiguousarray(weight.T[::-1])
    outputs = rows.shape[1]
    rows = np.pad(rows, ((0, 0), (0, -outputs % 32)))
    zero, largest_code = 1 << (bits - 1), (1 << bits) - 1
    groups = rows.reshape(-1, GROUP, rows.shape[1])
    needed = np.abs(groups).max(axis=1) / max(1, zero - 1)
    largest = needed.max(axis=1).astype(np.float16)
    steps = np.ceil(16 * np.sqrt(needed / largest[:, None].astype(np.float32))).clip(1, 16)
    scales = np.square(steps) * (largest.astype(np.float32) / 256)[:, None]
    codes = (np.rint(groups / scales[:, None, :]) + zero).clip(0, largest_code).astype(np.uint8)
    words = [pack_codes(group, bits) for group in codes]
    indices = [pack_codes(row[:, None].astype(np.uint8), 4).T for row in steps - 1]
    table = [number for at in range(len(words)) for number in (bits, at * len(words[0]))]
    return {
        "q_weight": np.concatenate(words).view(np.int32),
        "q_scale": np.concatenate(indices).view(np.int32),
        "q_scale_max": largest,
        "q_groups": np.array(table, dtype=np.uint16).view(np.int16),
        "q_invperm": np.arange(len(rows), dtype=np.int32)[::-1].copy(),
    }
