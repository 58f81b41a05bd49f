"""The second half of a build, the same for levels that were made and that were imported: search, report, manifest."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from flexquant.engine.errors import InputError
from flexquant.engine.exl2.spec import COLUMN_MULTIPLE
from flexquant.engine.manifest import MANIFEST_NAME, Module, Pruning, Quantization
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.device import Kept
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.evaluation_setup import EvaluationSetup
from flexquant.ensemble_builder.executor import executor
from flexquant.ensemble_builder.file_hashes import file_records
from flexquant.ensemble_builder.journal import Journal
from flexquant.ensemble_builder.manifest_writer import manifest_of, write_manifest
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.sequence_search import fingerprint, search_measured
from flexquant.ensemble_builder.slices import largest_step
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, Store, modules_of
from flexquant.ensemble_builder.units import units_of
from flexquant.ensemble_builder.workplace import REPORT_NAME, SEARCHED_NAME, Settings, Workplace


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
    modules = modules_of(stores, options.max_step) if modules is None else modules
    if all(len(module.variants) == 1 for module in modules):
        raise InputError(f"{place.out}: no module of the lower levels is smaller than at the best one")
    _say_what_is_coarser(modules, options.max_step, progress)
    files = file_records(place.out, _stored(place.out))
    levels = tuple(store.level for store in stores)
    device = torch.device(options.device)
    kept = Kept.on(device, len(levels))
    setup = EvaluationSetup(place.out, levels, modules, windows, checkpoint, kept, device)
    key = fingerprint(files, modules, windows, setup.reference)
    journal_path = place.work / "evaluations.jsonl"
    with Journal(journal_path, key) as journal, executor(setup, options.workers) as execute:
        searches = {
            kind: search_measured(kind, units_of(modules, levels, kind), execute, options, journal, progress)
            for kind in options.units
        }
    evaluations = len(frozenset.union(*(searched.measured for searched in searches.values())))
    manifest = manifest_of(
        name=name,
        stores=stores,
        modules=modules,
        sequences=searches,
        evaluations=evaluations,
        windows=windows,
        reference=setup.reference,
        reference_perplexity=setup.reference_perplexity(),
        seed=options.seed,
        quantization=quantization,
        pruning=pruning,
        files=files,
    )
    report = {
        "settings": settings,
        "search": {
            "evaluations": evaluations,
            "minutes": round(sum(searched.minutes for searched in searches.values()), 2),
            "sequences": {
                kind: {"area": searched.found.area, "greedy_area": searched.found.greedy_area}
                for kind, searched in searches.items()
            },
        },
    }
    write_atomically(place.out / REPORT_NAME, json.dumps(report, indent=1).encode() + b"\n")
    write_atomically(place.out / SEARCHED_NAME, journal_path.read_bytes())
    write_manifest(place.out, manifest)
    place.clear()
    progress.note(f"{place.out / MANIFEST_NAME}: is finished, after {evaluations} evaluations")
    for kind, searched in searches.items():
        found = searched.found
        progress.note(
            f"by {kind}: {len(found.order) + 1} positions, area under KL {found.area:.4g} "
            f"(greedy by sensitivity: {found.greedy_area:.4g})"
        )


def _say_what_is_coarser(modules: Sequence[Module], max_step: int | None, progress: Progress) -> None:
    """Name the modules that cannot be cut as finely as they were asked to be."""
    if max_step is None:
        return
    steps = {module.name: largest_step([variant.bytes for variant in module.variants]) for module in modules}
    coarser = {name: step for name, step in steps.items() if step > max_step}
    if coarser:
        name = max(coarser, key=lambda name: coarser[name])
        progress.note(
            f"--max-step {max_step}: {len(coarser)} modules of {COLUMN_MULTIPLE} columns cannot be cut finer and give "
            f"back more in one step: up to {coarser[name]} bytes ({name})"
        )


def _stored(out: Path) -> list[Path]:
    return [path for path in (out / LEVELS_FOLDER).rglob("*") if path.is_file()]
