"""The second half of a build, the same for levels that were made and that were imported: search, report, manifest."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.engine.manifest import MANIFEST_NAME, Module, Pruning, Quantization
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.bounded_weights import BoundedWeights
from flexquant.ensemble_builder.eqm import EqmEvaluation, hybrid
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure
from flexquant.ensemble_builder.file_hashes import file_records
from flexquant.ensemble_builder.manifest_writer import manifest_of, write_manifest
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.sequence import best
from flexquant.ensemble_builder.sequence_search import fingerprint, search_measured
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, Store, modules_of, units_of
from flexquant.ensemble_builder.workplace import REPORT_NAME, Settings, Workplace


def unquantized(checkpoint: Path, config: ModelConfig) -> Decoder:
    """Return an unquantized model; its weights are read when they are first used."""
    index = TensorIndex.open(checkpoint)
    return Decoder(config, BoundedWeights(lambda: DenseWeights(index, config)))


def complete(
    place: Workplace,
    settings: Settings,
    *,
    name: str,
    stores: Sequence[Store],
    windows: Windows,
    checkpoint: Path | None,
    quantization: Quantization | None,
    options: SearchOptions,
    progress: Progress,
    modules: Sequence[Module] | None = None,
    pruning: Pruning | None = None,
) -> None:
    """Search over finished stores, then write report and manifest and remove what only the build needed.

    Args:
        place: The ensemble's folder; the stores lie in it.
        settings: What the build was told.
        name: Name of the model.
        stores: From best to smallest.
        windows: The search text.
        checkpoint: The unquantized model, for KL; position 0 takes its place if None.
        quantization: How the levels were made; None if they were imported.
        options: How to search.
        progress: Is told what is being done.
        modules: What is swapped; every linear layer of the stores if None.
        pruning: What the stores lost; None if nothing.

    Raises:
        InputError: The stores do not make an ensemble: no module gets smaller.
    """
    config = stores[0].config
    modules = modules_of(stores) if modules is None else modules
    units = units_of(modules)
    if not any(unit.steps for unit in units):
        raise InputError(f"{place.out}: no module of the lower levels is smaller than at the best one")
    files = file_records(place.out, _stored(place.out))
    weights = {store.level: store.weights() for store in stores}
    kind: Literal["unquantized", "position 0"]
    if checkpoint is None:
        kind = "position 0"
        decoder = hybrid(config, modules, weights, best(units))
        reference = Reference(decoder, final_hidden(decoder, windows))
    else:
        kind = "unquantized"
        # A second decoder, because the first keeps the weights it has read and this one needs the head alone.
        reference = Reference(unquantized(checkpoint, config), final_hidden(unquantized(checkpoint, config), windows))
    searched = search_measured(
        EqmEvaluation(config, modules, weights, windows, reference),
        units,
        options,
        place.work / "evaluations.jsonl",
        fingerprint(files, windows, kind),
        progress,
    )
    manifest = manifest_of(
        name=name,
        stores=stores,
        modules=modules,
        units=units,
        found=searched.found,
        qualities=searched.qualities,
        windows=windows,
        reference=kind,
        reference_perplexity=measure(reference.decoder, reference.hidden, windows, None).perplexity,
        seed=options.seed,
        quantization=quantization,
        pruning=pruning,
        files=files,
    )
    found = searched.found
    report = {
        "settings": settings,
        "search": {
            "evaluations": found.evaluations,
            "minutes": round(searched.minutes, 2),
            "area": found.area,
            "greedy_area": found.greedy_area,
        },
    }
    write_atomically(place.out / REPORT_NAME, json.dumps(report, indent=1).encode() + b"\n")
    write_manifest(place.out, manifest)
    place.clear()
    progress.note(
        f"{place.out / MANIFEST_NAME}: {len(found.order) + 1} positions, {found.evaluations} evaluations, "
        f"area under KL {found.area:.4g} (greedy by sensitivity: {found.greedy_area:.4g})"
    )


def _stored(out: Path) -> list[Path]:
    return [path for path in (out / LEVELS_FOLDER).rglob("*") if path.is_file()]
