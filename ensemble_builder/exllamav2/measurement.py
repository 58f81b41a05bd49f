"""The measurement of exllamav2's converter: how large every block of the model gets with each way to quantize it.

A block is the attention or the MLP of a layer. The file is {"measurement": {block: [{"total_bits": ..., ...}, ...]}},
and null for what is no block. Source: exllamav2 0.3.2, `conversion/measure.py` and `optimize.py`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from flexquant.engine.config_fields import read_object
from flexquant.engine.errors import InputError, UsageError
from flexquant.engine.model_config import ModelConfig

LEAST: Final = 2.1125
"""No model gets smaller than so many bits per weight: the smallest way that the converter has is 3 bits for a twentieth
of the rows, 2 for the others, and 4 bits of scale per 64 rows. Source: `conversion/qparams.py`."""
MOST: Final = 8.0
"""The largest way takes little more."""


def check_possible(levels: Sequence[float]) -> None:
    """Check levels against what the converter can make of any model, which needs no measurement.

    Raises:
        UsageError: One is too small or too large.
    """
    for level in levels:
        if not LEAST <= level <= MOST:
            raise UsageError(
                f"{level:g} bits: exllamav2's converter makes levels of {LEAST:g} to {MOST:g} bits",
                hint="For example --levels 8,3; or build without exllamav2.",
            )


def smallest_bits(measurement: Path, config: ModelConfig) -> float:
    """Return the fewest bits per weight of the decoder's linear layers that the converter can make.

    Raises:
        InputError: The file holds no measurement of this model.
    """
    found = read_object(measurement).get("measurement")
    blocks = [f"model.layers.{layer}.{part}" for layer in range(config.layers) for part in ("self_attn", "mlp")]
    weights = sum(shape.in_features * shape.out_features for shape in config.linears() if shape.layer is not None)
    return sum(_least(measurement, found, block) for block in blocks) / weights


def check_offered(levels: Sequence[float], smallest: float) -> None:
    """Check levels against what the converter can make.

    Raises:
        UsageError: One is smaller than `smallest`. The converter would make a larger one without a word.
    """
    least = min(levels)
    if least < smallest:
        raise UsageError(
            f"{least:g} bits: the least that exllamav2's converter can make of this model is {smallest:.3f} bits per "
            "weight",
            hint=f"Choose levels of {math.ceil(smallest * 100) / 100:g} bits or more, in another --out; or build "
            "without exllamav2.",
        )


def _least(path: Path, found: Any, block: str) -> float:
    try:
        return min(float(option["total_bits"]) for option in found[block])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: holds no measurement of {block}", hint="Remove the file; the same command measures again."
        ) from error
