"""Quantizes a whole model with Any-Precision: one run forward, one backward, each layer quantized as it is passed.

Memory holds one layer with its gradients and the states of the calibration text at one layer; disk holds these of all
layers, see `GradientWork`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import FlexQuantError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import LinearShape, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.any_precision.clusters import cluster
from flexquant.ensemble_builder.any_precision.fisher import (
    DifferentiableWeights,
    head_information,
    layer_information,
)
from flexquant.ensemble_builder.any_precision.gradient_work import GradientWork
from flexquant.ensemble_builder.any_precision.layer_tensors import layer_tensors
from flexquant.ensemble_builder.any_precision.planes import check_sizes
from flexquant.ensemble_builder.any_precision.stores_of_levels import write_stores
from flexquant.ensemble_builder.any_precision.widths import widths_of
from flexquant.ensemble_builder.evaluation import run_layer
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.store_writer import common_tensors
from flexquant.ensemble_builder.workplace import WORK_NAME

REVISION: Final = 1
"""Part of what results on disk depend on: goes up with every change of the numbers."""


def quantize_model(
    checkpoint: Path,
    levels: Sequence[float],
    out: Path,
    *,
    windows: Tensor,
    calibration: Text,
    progress: Progress,
) -> None:
    """Write one store per level, `out/levels/<level>`, each of what it adds to the next smaller one.

    A killed run is continued by the next call with the same arguments and ends with the same bytes; the work so far
    is in `out/.work/quantization`.

    Args:
        checkpoint: Folder of the unquantized model.
        levels: Widths, whole numbers, falling.
        out: The ensemble's folder.
        windows: Calibration tokens, int64 [windows, window].
        calibration: Where they come from.
        progress: Is told about the layers.

    Raises:
        CheckpointError: The checkpoint cannot be read, or has values that are not finite.
        UnsupportedModelError: The architecture is not supported, or its sizes do not fit the format.
        FlexQuantError: A file cannot be written.
    """
    config = read_model_config(checkpoint)
    check_sizes(checkpoint, config)
    index = TensorIndex.open(checkpoint)
    settings = {
        "method": "any-precision",
        "revision": REVISION,
        "torch": torch.__version__,
        "checkpoint": checkpoint_sha256(checkpoint),
        "levels": list(levels),
        "calibration": calibration.model_dump(),
        "windows": [*windows.shape, hashlib.sha256(windows.numpy().tobytes()).hexdigest()],
    }
    work = GradientWork(out / WORK_NAME / "quantization", settings)
    if work.finished:
        return
    _forward(index, config, windows, work, progress)
    _backward(index, config, windows, levels, work, progress)
    source = {"dataset": calibration.name, "tokens": calibration.tokens}
    write_stores(out, checkpoint, common_tensors(index, config), levels, work, {"calibration": source}, progress)
    work.finish()


def _forward(index: TensorIndex, config: ModelConfig, windows: Tensor, work: GradientWork, progress: Progress) -> None:
    """Keep every layer's input, from where an earlier run got to."""
    if work.load_gradient() is not None:
        return
    first = work.last_input
    if first is None:
        first, weights = 0, DenseWeights(index, config)
        work.save_input(0, torch.stack([weights.embed(window) for window in windows]))
    hidden = work.load_input(first)
    with progress.stage("running the model", config.layers, done=first) as stage:
        for layer in range(first, config.layers):
            hidden = run_layer(Decoder(config, DenseWeights(index, config)), layer, hidden)
            work.save_input(layer + 1, hidden)
            stage.advance()


def _backward(
    index: TensorIndex,
    config: ModelConfig,
    windows: Tensor,
    levels: Sequence[float],
    work: GradientWork,
    progress: Progress,
) -> None:
    """Quantize the head and then all layers from the last one on, from where an earlier run got to."""
    parts = [list(shapes) for _, shapes in groupby(config.linears(), key=lambda shape: shape.layer)]
    after, gradient = work.load_gradient() or (len(parts), None)
    done = sum(map(len, parts[after:]))
    with progress.stage("quantizing", sum(map(len, parts)), done=done) as stage:
        for part in range(after - 1, -1, -1):
            weights = DifferentiableWeights(index, config, [shape.key for shape in parts[part]])
            hidden = work.load_input(part)
            if gradient is None:
                information, gradient = head_information(config, weights, hidden, windows)
            else:
                information, gradient = layer_information(config, weights, part, hidden, gradient)
            results: dict[str, dict[str, Tensor]] = {level_name(level): {} for level in levels}
            for shape in parts[part]:
                for level, tensors in _quantized(shape, weights, information, levels).items():
                    results[level_name(level)] |= {f"{shape.key}.{suffix}": found for suffix, found in tensors.items()}
                stage.advance()
            work.save_layer(part, results)
            work.save_gradient(part, gradient)
            work.drop_input(part)


def _quantized(
    shape: LinearShape, weights: DifferentiableWeights, information: Mapping[str, Tensor], levels: Sequence[float]
) -> dict[float, dict[str, Tensor]]:
    importance = information[shape.key]
    if not torch.isfinite(importance).all():
        raise FlexQuantError(
            f"{shape.key}: the calibration text makes gradients that are not finite",
            hint="The checkpoint may be damaged; compare its hashes with the source.",
        )
    widths = widths_of(shape, levels)
    matrix = weights.matrices[shape.key].detach()
    found = cluster(matrix.numpy(), importance.numpy(), list(widths.values()))
    return layer_tensors(found.codes, found.tables, widths, weights.bias(shape.key))
