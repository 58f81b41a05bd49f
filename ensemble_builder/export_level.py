"""Writes one level of an ensemble as an EXL2 checkpoint of its own, which any program for EXL2 loads."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flexquant.engine.decoder import Decoder
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import InputError, UsageError
from flexquant.engine.manifest import MANIFEST_NAME, Manifest, Text
from flexquant.engine.model_config import LinearShape
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.atomic_file import cannot_write, sync_folder
from flexquant.ensemble_builder.bit_allocation import Sections, allocate
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure, read_text
from flexquant.ensemble_builder.exl2_pack import pack
from flexquant.ensemble_builder.gptq import Curvature, quantize_linear
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.report.ladder import group_size_of
from flexquant.ensemble_builder.safetensors_file import write_safetensors
from flexquant.ensemble_builder.store_writer import COMMON_NAME, exl2_quantization, share, write_store
from flexquant.ensemble_builder.stores import Store, level_of, open_store, stores_of


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Args:
        bits_per_weight: Payload bits of the quantized layers over their weights.
        kl: Mean KL divergence from the level itself, in nats per token; None for a copy, which is bit-exact.
        perplexity: Of the export, on the same text; None for a copy.
        level_perplexity: Of the level itself; None for a copy.
    """

    bits_per_weight: float
    kl: float | None = None
    perplexity: float | None = None
    level_perplexity: float | None = None


def export_level(folder: Path, name: str, out: Path, text: Path | None, progress: Progress) -> Exported:
    """Write a level to a folder of its own.

    A level that stands alone is copied bit by bit (as hard links where possible). One that is added to others is
    rounded anew, to the width that it has; `text` then measures what that costs.

    Args:
        folder: The ensemble.
        name: The level's.
        out: New folder for the checkpoint.
        text: File with a text to measure on; only used where the level is rounded anew.
        progress: Is told the layers.

    Raises:
        UsageError: There is no such level, or a text is needed.
        InputError: Layers of the level were pruned, or `out` exists.
        FlexQuantError: A file cannot be read or written.
    """
    manifest = Ensemble.open(folder).manifest
    level = next((level for level in manifest.levels if level.name == name), None)
    if level is None:
        names = ", ".join(level.name for level in manifest.levels)
        raise UsageError(f"--level {name}: {folder} has no such level", hint=f"It has {names}.")
    if manifest.method != "exl2":
        raise UsageError(
            f"{folder}: its levels are quantized with {manifest.method}, and only EXL2 levels are exported",
            hint="Build an ensemble with --method exl2 for programs that read EXL2.",
        )
    if manifest.pruning is not None and name in manifest.pruning.dropped:
        raise InputError(
            f"{folder / MANIFEST_NAME}: layers of level {name} were pruned from the disk",
            hint="Export it from the ensemble that this one was pruned from.",
        )
    if out.exists():
        raise InputError(f"{out}: is there already", hint="Choose another --out.")
    store = next(store for store in stores_of(folder, manifest) if store.level == name)
    unfinished = out.with_name(f"{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    if store.below is None:
        for path in sorted((folder / level.store).iterdir()):
            share(path, unfinished / path.name)
        found = Exported(level.bits_per_weight)
    else:
        if text is None:
            raise UsageError(f"--level {name}: it is rounded anew, which has to be measured", hint="Give a --text.")
        windows = _windows(text, folder, store)
        _round(store, manifest, unfinished, progress)
        found = _measured(store, unfinished, windows)
    try:
        unfinished.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise cannot_write(out, error) from error
    return found


def _windows(text: Path, folder: Path, store: Store) -> Windows:
    tokenizer = Tokenizer.open(Ensemble.open(folder).tokenizer_folder)
    return Windows.of_text(read_text(text), text.name, tokenizer, store.config)


@torch.inference_mode()
def _round(store: Store, manifest: Manifest, out: Path, progress: Progress) -> None:
    """Write the store with its weights, sums of several matrices, as one matrix each."""
    made = manifest.quantization
    group_size = group_size_of(manifest)
    shapes = store.config.linears()
    sections = allocate(shapes, store.bits, group_size)
    calibration = Text(name="", sha256="0" * 64, tokens=0) if made is None else made.calibration
    layers = out / "layers"
    with progress.stage(f"rounding level {store.level}", len(shapes)) as stage:
        for number, shape in enumerate(shapes):
            tensors = _rounded(store, shape, sections[shape.key], group_size)
            write_safetensors(layers / f"{number:05}.safetensors", tensors)
            stage.advance()
    index = TensorIndex.open(layers)
    write_store(
        out,
        store.index.folder,
        common=store.index.folder / COMMON_NAME,
        quantized={name: index[name] for name in index.names()},
        quantization=exl2_quantization(store.bits, calibration),
    )
    shutil.rmtree(layers)


def _rounded(store: Store, shape: LinearShape, sections: Sections, group_size: int) -> dict[str, Tensor]:
    """A linear layer's tensors, each weight rounded by itself: there are no activations that could guide it."""
    weights = store.exl2_weights()
    order = torch.argsort(weights.inverse_permutation(shape.key))
    unit = torch.eye(shape.in_features)
    inputs = Curvature(order, unit, unit, torch.ones(shape.in_features))
    packed = pack(quantize_linear(weights.weight(shape.key), inputs, sections, group_size, weights.bias(shape.key)))
    return {f"{shape.key}.{suffix}": tensor for suffix, tensor in packed.items()}


def _measured(store: Store, out: Path, windows: Windows) -> Exported:
    level = Decoder(store.config, store.weights())
    reference = Reference(level, final_hidden(level, windows))
    written = open_store(out, store.level, store.bits)
    decoder = Decoder(written.config, written.weights())
    quality = measure(decoder, final_hidden(decoder, windows), windows, reference)
    return Exported(
        bits_per_weight=level_of(written).bits_per_weight,
        kl=quality.kl,
        perplexity=quality.perplexity,
        level_perplexity=measure(level, reference.hidden, windows, None).perplexity,
    )
