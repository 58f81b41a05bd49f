"""The tensors that Any-Precision stores have of a linear layer, level by level.

The format is our own; engine/any_precision/spec.py describes it.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexquant.ensemble_builder.any_precision.planes import planes_of
from flexquant.ensemble_builder.any_precision.widths import Widths


def layer_tensors(
    codes: NDArray[np.uint8], tables: Mapping[int, NDArray[np.float16]], widths: Widths, bias: Tensor | None
) -> dict[float, dict[str, Tensor]]:
    """Return what every level adds to those below it: by level, by the suffix of a tensor's name.

    Args:
        codes: uint8 [out_features, in_features], of the greatest width.
        tables: By width: f16 [out_features, 2^width], ascending.
        widths: See `Widths`.
        bias: f32 [out_features], if the layer has one.
    """
    width = max(widths.values())
    steps = pairwise([0, *widths.values()])
    found = {
        level: {
            "planes": torch.from_numpy(planes_of(codes, width, first, last)),
            "table": torch.from_numpy(tables[last]),
        }
        for level, (first, last) in zip(widths, steps, strict=True)
    }
    if bias is not None:
        found[next(iter(widths))]["bias"] = bias.half()
    return found
