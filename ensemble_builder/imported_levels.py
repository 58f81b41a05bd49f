"""Builds an ensemble from EXL2 checkpoints that exist already, by search alone."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from flexquant.engine.errors import CheckpointError, UsageError
from flexquant.engine.exl2.spec import is_quantized
from flexquant.engine.manifest import MANIFEST_NAME
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.completion import complete
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.same_model import check_same_model
from flexquant.ensemble_builder.store_writer import share
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, Store, open_store
from flexquant.ensemble_builder.texts import text_windows
from flexquant.ensemble_builder.workplace import workplace

STORE_SUFFIXES: Final = (".safetensors", ".json", ".jinja")
"""What a store consists of. Nothing that would have to be unpickled is taken along."""
STALE_INDEX: Final = "model.safetensors.index.json"
"""Describes the files that the checkpoint was quantized from."""


def build_from_levels(
    checkpoints: Sequence[Path],
    out: Path,
    unquantized: Path | None,
    search: SearchOptions,
    progress: Progress,
    name: str | None = None,
) -> None:
    """Build an ensemble from EXL2 checkpoints of one model; their files are hard-linked into it, or copied.

    Args:
        checkpoints: Folders of the checkpoints, in any order.
        out: The ensemble's folder: new, empty, or with the same build in it, which is continued.
        unquantized: The model they were made from, if it is at hand: KL is measured against it.
        search: How the sequence is searched for.
        progress: Is told what is being done.
        name: Of the model; the folder's of `unquantized`, or of the best checkpoint, if None.

    Raises:
        UsageError: Fewer than two checkpoints, or another process builds there.
        CheckpointError: A checkpoint cannot be read, is not EXL2, or they are of different models.
        InputError: A text cannot be used, or `out` holds something else.
        FlexQuantError: A file cannot be written.
    """
    if len(checkpoints) < 2:
        raise UsageError("--from-checkpoints needs two checkpoints or more", hint="For example --from-checkpoints A,B")
    stores = _from_best_to_smallest([_open(folder) for folder in checkpoints])
    everyone = [store.index.folder for store in stores] + ([unquantized] if unquantized else [])
    check_same_model(everyone)
    settings = {
        "checkpoints": [checkpoint_sha256(store.index.folder) for store in stores],
        "unquantized checkpoint": None if unquantized is None else checkpoint_sha256(unquantized),
        **search.settings(),
    }
    with workplace(out, settings) as place:
        if place.finished:
            progress.note(f"{out / MANIFEST_NAME}: is finished already")
            return
        for store in stores:
            _bring(store.index.folder, out / LEVELS_FOLDER / store.level)
        linked = [open_store(out / LEVELS_FOLDER / store.level, store.level, store.bits) for store in stores]
        complete(
            place,
            settings,
            name=name or (unquantized or stores[0].index.folder).resolve().name,
            stores=linked,
            windows=text_windows(
                search.text,
                search.tokens,
                model=unquantized or linked[0].index.folder,
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


def _open(folder: Path) -> Store:
    """Open an EXL2 checkpoint as a store, named after its bits."""
    config = read_model_config(folder)
    index = TensorIndex.open(folder)
    for shape in config.linears():
        if not is_quantized(index, shape.key):
            raise CheckpointError(
                f"{folder}: {shape.key} is not in EXL2 (no tensor {shape.key}.q_weight)",
                hint="--from-checkpoints takes EXL2 checkpoints; give an unquantized one as MODEL.",
            )
    store = open_store(folder, "", 0.0)
    if store.below is not None:
        raise CheckpointError(
            f"{folder}: holds what is added to level {store.below.level} of an ensemble, and is no model by itself",
            hint="Give the ensemble itself, or a level that `flexquant-build export` wrote.",
        )
    bits = _asked_bits(folder) or _measured_bits(store)
    return Store(level_name(bits), bits, store.index, store.config, store.specs)


def _asked_bits(folder: Path) -> float | None:
    """Return what config.json says the checkpoint was quantized to; not all of them say it."""
    quantization = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    bits = quantization.get("bits") if isinstance(quantization, dict) else None
    return float(bits) if isinstance(bits, int | float) and bits > 0 else None


def _measured_bits(store: Store) -> float:
    """Return the bytes of the decoder's linear layers in bits per weight, to two decimals."""
    shapes = [shape for shape in store.config.linears() if shape.layer is not None]
    stored = sum(store.specs[shape.key].payload for shape in shapes)
    return round(8 * stored / sum(shape.in_features * shape.out_features for shape in shapes), 2)


def _from_best_to_smallest(stores: Sequence[Store]) -> list[Store]:
    ordered = sorted(stores, key=lambda store: store.module_bytes, reverse=True)
    for higher, lower in pairwise(ordered):
        if higher.level == lower.level:
            raise CheckpointError(
                f"{higher.index.folder} and {lower.index.folder} are both of {higher.bits:g} bits",
                hint="Give checkpoints of different widths.",
            )
    return ordered


def _bring(source: Path, target: Path) -> None:
    """Hard-link the files of a store into `target`, or copy them where links fail."""
    for path in sorted(source.iterdir()):
        if path.suffix in STORE_SUFFIXES and path.is_file() and path.name != STALE_INDEX:
            # The file itself rather than a symbolic link to it, which the hub's cache is full of.
            share(path.resolve(), target / path.name)
