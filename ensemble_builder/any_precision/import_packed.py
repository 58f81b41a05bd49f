"""Builds an ensemble from a packed Any-Precision checkpoint: its codes and tables as they are, and a search."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import MANIFEST_NAME
from flexquant.engine.model_config import EMBEDDING, HEAD, LinearShape
from flexquant.ensemble_builder.any_precision.clusters import cluster
from flexquant.ensemble_builder.any_precision.layer_tensors import layer_tensors
from flexquant.ensemble_builder.any_precision.packed_checkpoint import WEIGHTS_NAME, PackedCheckpoint
from flexquant.ensemble_builder.any_precision.planes import check_sizes
from flexquant.ensemble_builder.any_precision.stores_of_levels import write_stores
from flexquant.ensemble_builder.completion import complete
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256, file_record
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantization_work import QuantizationWork
from flexquant.ensemble_builder.same_model import check_same_model
from flexquant.ensemble_builder.store_writer import float16
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, open_store
from flexquant.ensemble_builder.texts import text_windows
from flexquant.ensemble_builder.workplace import workplace

HEAD_BITS: Final = 8
"""Packed checkpoints have an unquantized head, which the engine does not run: it is rounded to this width."""


def build_from_packed(
    packed: PackedCheckpoint,
    levels: Sequence[float],
    out: Path,
    unquantized: Path | None,
    search: SearchOptions,
    progress: Progress,
) -> None:
    """Build an ensemble from a packed checkpoint.

    Args:
        packed: The checkpoint.
        levels: Widths to take from it, whole numbers, falling.
        out: The ensemble's folder: new, empty, or with the same build in it, which is continued.
        unquantized: The model it was made from, if it is at hand: KL is measured against it.
        search: How the sequence is searched for.
        progress: Is told what is being done.

    Raises:
        UsageError: The checkpoint has no such level, or another process builds there.
        CheckpointError: A tensor is missing or damaged, or `unquantized` is another model.
        InputError: A text cannot be used, or `out` holds something else.
        FlexQuantError: A file cannot be written.
    """
    missing = [level for level in levels if level not in packed.levels]
    if missing:
        has = ",".join(f"{level:g}" for level in packed.levels)
        raise UsageError(f"{packed.folder}: has no table of {missing[0]:g} bits", hint=f"It has --levels {has}.")
    check_sizes(packed.folder, packed.config)
    settings = {
        "checkpoint": checkpoint_sha256(packed.folder),
        "weights": file_record(packed.folder / WEIGHTS_NAME).sha256,
        "levels": list(levels),
        "unquantized checkpoint": None if unquantized is None else checkpoint_sha256(unquantized),
        **search.settings(),
    }
    with workplace(out, settings) as place:
        if place.finished:
            progress.note(f"{out / MANIFEST_NAME}: is finished already")
            return
        work = QuantizationWork(place.work / "quantization", settings)
        if not work.finished:
            _import(packed, levels, work, progress)
            write_stores(
                out, packed.folder, _common(packed), levels, work, {"packed_by": "any-precision-llm"}, progress
            )
            work.finish()
        names = [level_name(level) for level in levels]
        stores = [
            open_store(out / LEVELS_FOLDER / name, name, level) for name, level in zip(names, levels, strict=True)
        ]
        if unquantized is not None:
            check_same_model([unquantized, stores[0].index.folder])
        complete(
            place,
            settings,
            name=(unquantized or packed.folder).resolve().name,
            stores=stores,
            windows=text_windows(
                search.text,
                search.tokens,
                model=unquantized or stores[-1].index.folder,
                seed=search.seed,
                kept=place.work / "search.txt",
                progress=progress,
                device=search.device,
            ),
            checkpoint=unquantized,
            quantization=None,
            options=search,
            progress=progress,
        )


def _import(packed: PackedCheckpoint, levels: Sequence[float], work: QuantizationWork, progress: Progress) -> None:
    """Put the tensors of every level into the work folder, layer by layer."""
    shapes = packed.config.linears()
    progress.note(f"the head, which the checkpoint has unquantized, is rounded to {HEAD_BITS} bits")
    with progress.stage("reading the checkpoint", len(shapes)) as stage:
        for number, (_, layer) in enumerate(groupby(shapes, key=lambda shape: shape.layer)):
            results: dict[str, dict[str, Tensor]] = {level_name(level): {} for level in levels}
            for shape in layer:
                found = _head(packed, shape, levels) if shape.key == HEAD else _linear(packed, shape, levels)
                for level, tensors in found.items():
                    results[level_name(level)] |= {f"{shape.key}.{suffix}": part for suffix, part in tensors.items()}
                stage.advance()
            work.save_layer(number, results)


def _linear(packed: PackedCheckpoint, shape: LinearShape, levels: Sequence[float]) -> dict[float, dict[str, Tensor]]:
    planes = torch.from_numpy(packed.planes(shape))
    found = {}
    for below, level in pairwise((0.0, *reversed(levels))):
        found[level] = {"planes": planes[int(below) : int(level)], "table": packed.table(shape, int(level))}
    if shape.bias:
        found[levels[-1]]["bias"] = _float16(packed, f"{shape.key}.bias", (shape.out_features,))
    return found


def _head(packed: PackedCheckpoint, shape: LinearShape, levels: Sequence[float]) -> dict[float, dict[str, Tensor]]:
    name = EMBEDDING if packed.config.tied_head else f"{HEAD}.weight"
    matrix = _float16(packed, name, (shape.out_features, shape.in_features)).float().numpy()
    found = cluster(matrix, np.ones_like(matrix), [HEAD_BITS])
    return layer_tensors(found.codes, found.tables, {levels[-1]: HEAD_BITS}, None)


def _common(packed: PackedCheckpoint) -> dict[str, Tensor]:
    config = packed.config
    found = {name: _float16(packed, name, (length,)) for name, length in config.norms().items()}
    return {EMBEDDING: _float16(packed, EMBEDDING, (config.vocab_size, config.hidden_size)), **found}


def _float16(packed: PackedCheckpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    found = packed.tensors.get(name)
    dtype = torch.float16 if found is None else found.dtype
    return float16(packed.tensor(name, dtype, shape), f"{packed.folder / WEIGHTS_NAME}: {name}")
