"""Quantizes a whole model to several levels, layer by layer, from one run of the unquantized model.

Memory holds one layer, its Hessians and the hidden states of the calibration text. All levels use the Hessians and
the order of inputs of the unquantized model, so any of their linear layers may be mixed, and layers that have an
input in common gather it once.
"""

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.bit_allocation import allocate_levels
from flexquant.ensemble_builder.evaluation import run_layer
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256
from flexquant.ensemble_builder.layer_inputs import ObservedWeights
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantization_work import QuantizationWork
from flexquant.ensemble_builder.quantize_layer import Plan, quantize_layer
from flexquant.ensemble_builder.row_groups import ROW_MULTIPLE, check_rows
from flexquant.ensemble_builder.store_writer import COMMON_NAME, common_tensors, exl2_quantization, write_store
from flexquant.ensemble_builder.stores import LEVELS_FOLDER
from flexquant.ensemble_builder.workplace import WORK_NAME

REVISION: Final = 3
"""Part of what results on disk depend on: goes up with every change of the numbers."""


def quantize_model(
    checkpoint: Path,
    levels: Sequence[float],
    out: Path,
    *,
    windows: Tensor,
    calibration: Text,
    group_size: int = 32,
    nested: bool = False,
    progress: Progress,
) -> None:
    """Write one EXL2 store per level, `out/levels/<level>`.

    A killed run is continued by the next call with the same arguments and ends with the same bytes; the work so far
    is in `out/.work/quantization`.

    Args:
        checkpoint: Folder of the unquantized model.
        levels: Average widths, 2 to 8.
        out: The ensemble's folder.
        windows: Calibration tokens, int64 [windows, window].
        calibration: Where they come from.
        group_size: Weights of a column that share a scale; a multiple of 32.
        nested: Whether all stores but the last hold what is added to the next one, and not models of their own.
        progress: Is told about the layers.

    Raises:
        CheckpointError: The checkpoint cannot be read, or has values that are not finite.
        UnsupportedModelError: The architecture is not supported, or its sizes do not fit the format.
        UsageError: The group size does not fit the format.
        FlexQuantError: A file cannot be written.
    """
    config = read_model_config(checkpoint)
    if group_size <= 0 or group_size % ROW_MULTIPLE:
        raise UsageError(f"group size {group_size}: not a multiple of {ROW_MULTIPLE}", hint="32, 64 and 128 are usual.")
    check_rows(checkpoint, config.linears())
    index = TensorIndex.open(checkpoint)
    settings = {
        "revision": REVISION,
        "torch": torch.__version__,
        "checkpoint": checkpoint_sha256(checkpoint),
        "levels": list(levels),
        "group_size": group_size,
        "calibration": calibration.model_dump(),
        "windows": [*windows.shape, hashlib.sha256(windows.numpy().tobytes()).hexdigest()],
        **({"nested": True} if nested else {}),
    }
    work = QuantizationWork(out / WORK_NAME / "quantization", settings)
    if work.finished:
        return
    below: dict[float, float | None] = dict(zip(levels, [*levels[1:], None], strict=True)) if nested else {}
    sections = allocate_levels(config.linears(), levels, group_size, nested=nested)
    plan = {level_name(level): found for level, found in zip(levels, sections, strict=True)}
    _quantize_layers(index, config, plan, group_size, windows, work, progress, nested=nested)
    common: dict[str, Tensor] | Path = common_tensors(index, config)
    with progress.stage("writing the stores", len(levels)) as stage:
        for level in levels:
            name = level_name(level)
            store, tensors = out / LEVELS_FOLDER / name, work.results(name)
            lower = below.get(level)
            write_store(
                store,
                checkpoint,
                common=common,
                quantized=tensors,
                quantization=exl2_quantization(level, calibration, None if lower is None else level_name(lower)),
            )
            common = store / COMMON_NAME
            stage.advance()
    work.finish()


@torch.inference_mode()
def _quantize_layers(
    index: TensorIndex,
    config: ModelConfig,
    plan: Plan,
    group_size: int,
    windows: Tensor,
    work: QuantizationWork,
    progress: Progress,
    *,
    nested: bool,
) -> None:
    """Quantize all layers, and the head as the last one, from where an earlier run got to."""
    first, hidden = work.load_hidden() or (0, _embedded(index, config, windows))
    layers = [list(shapes) for _, shapes in groupby(config.linears(), key=lambda shape: shape.layer)]
    parts = [len(shapes) * len(plan) for shapes in layers]
    with progress.stage("quantizing", sum(parts), done=sum(parts[:first])) as stage:
        for layer in range(first, len(layers)):
            weights = ObservedWeights(index, config)
            decoder = Decoder(config, weights)
            if layer < config.layers:
                hidden = run_layer(decoder, layer, hidden)
            else:
                for window in hidden:
                    decoder.logits(window)
            results = quantize_layer(
                layers[layer],
                weights,
                plan,
                group_size,
                nested=nested,
                notice=progress.note,
                done=stage.advance,
            )
            work.save_layer(layer, results)
            work.save_hidden(layer + 1, hidden)


def _embedded(index: TensorIndex, config: ModelConfig, windows: Tensor) -> Tensor:
    """Return the input of the first layer: f32 [windows, window, hidden]."""
    weights = DenseWeights(index, config)
    return torch.stack([weights.embed(window) for window in windows])
