"""Prunes a finished ensemble: a smaller one is written beside it, searched anew and compared with it."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import EnsembleError, InputError, UsageError
from flexquant.engine.manifest import MANIFEST_NAME, Manifest, Module, Pruning, read_manifest
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.completion import complete
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256, file_record
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.pruning import End, Kept, mean_loss, predicted_curve, prune
from flexquant.ensemble_builder.safetensors_file import write_safetensors
from flexquant.ensemble_builder.same_model import check_same_model
from flexquant.ensemble_builder.sensitivity import Sensitivity
from flexquant.ensemble_builder.sequence import Unit
from flexquant.ensemble_builder.store_writer import share
from flexquant.ensemble_builder.stores import open_store
from flexquant.ensemble_builder.texts import text_windows
from flexquant.ensemble_builder.units import KINDS
from flexquant.ensemble_builder.workplace import Settings, workplace


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """How much is to go.

    Args:
        rate: Share of all variants of linear layers to drop at least.
        limit_bytes: Most bytes on disk that the ensemble's files may take together; no limit if None.
        keep: The end of the footprint's range that stays.
    """

    rate: float
    limit_bytes: int | None
    keep: End

    def settings(self) -> Settings:
        """Return what the outcome depends on."""
        return {"pruning rate": self.rate, "limit": self.limit_bytes, "keep": self.keep}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pruning did. Losses are KL, means over the footprints that are common to both.

    Args:
        before: The manifest of the whole ensemble.
        after: That of the pruned one.
        disk_before: Bytes of its files.
        disk_after: The same.
        predicted_before: Loss of greedy-by-sensitivity, if costs added up.
        predicted_after: The same after pruning.
        measured_before: Loss of the sequence on its search text.
        measured_after: The same of the pruned one, on its own.
    """

    before: Manifest
    after: Manifest
    disk_before: int
    disk_after: int
    predicted_before: float
    predicted_after: float
    measured_before: float
    measured_after: float

    @property
    def same_text(self) -> bool:
        """Whether both were measured on the same text, with the same reference."""
        return self.before.evaluation == self.after.evaluation


def prune_ensemble(
    source: Path,
    out: Path,
    checkpoint: Path | None,
    options: PruneOptions,
    search: SearchOptions,
    progress: Progress,
) -> Outcome:
    """Write a pruned copy of an ensemble; files that lose nothing are hard-linked, or copied.

    Args:
        source: The ensemble, which stays as it is.
        out: Folder of the pruned one: new, empty, or with the same build in it, which is continued.
        checkpoint: The unquantized model, if it is at hand: KL is measured against it.
        options: How much is to go.
        search: How the sequences of what is left are searched for; their units are those of the ensemble's.
        progress: Is told what is being done.

    Raises:
        EnsembleError: The ensemble cannot be used, was pruned before, or does not say its sensitivities.
        UsageError: So much cannot go, or another process builds there.
        CheckpointError: The checkpoint cannot be read or is of another model.
        InputError: A text cannot be used, or `out` holds something else.
        FlexQuantError: A file cannot be written.
    """
    ensemble = Ensemble.open(source)
    manifest = ensemble.manifest
    if manifest.pruning is not None:
        raise EnsembleError(
            f"{source / MANIFEST_NAME}: was pruned already", hint="Prune the ensemble that it was made from."
        )
    search = replace(search, units=tuple(kind for kind in KINDS if kind in manifest.sequences))
    layers = _layers(manifest)
    units, costs = [layer.unit for layer in layers], tuple(layer.costs for layer in layers)
    disk = disk_bytes(manifest)
    variants = sum(len(unit.sizes) for unit in units)
    over = 0 if options.limit_bytes is None else max(0, disk - options.limit_bytes)
    try:
        pruned = prune(
            units,
            costs,
            options.keep,
            least_bytes=over,
            least_variants=math.ceil(options.rate * variants - 1e-9),
            nested=manifest.nested,
        )
    except ValueError as error:
        raise UsageError(
            f"{source}: so much cannot be dropped while every layer keeps its {options.keep} variant and one of them "
            f"can still move",
            hint=f"The ensemble has {variants} variants of {len(units)} layers and takes {disk} bytes on disk.",
        ) from error
    if not pruned.dropped_variants:
        raise UsageError(
            f"{source}: takes {disk} bytes on disk, so nothing has to go for --limit {options.limit_bytes}",
            hint="Give a smaller --limit, or a --rate.",
        )
    if checkpoint is not None:
        check_same_model([ensemble.common.folder, checkpoint])
    settings = {
        "ensemble": file_record(source / MANIFEST_NAME).sha256,
        "unquantized checkpoint": None if checkpoint is None else checkpoint_sha256(checkpoint),
        **options.settings(),
        **search.settings(),
    }
    with workplace(out, settings) as place:
        if place.finished:
            progress.note(f"{out / MANIFEST_NAME}: is finished already")
        else:
            dropped = _dropped(manifest, layers, pruned.kept)
            for level in manifest.levels:
                _write_store(source / level.store, out / level.store, dropped.get(level.name, ()))
            footprints = ensemble.sequence().footprint_bytes
            complete(
                place,
                settings,
                name=manifest.name,
                stores=[
                    open_store(out / level.store, level.name, level.bits, dropped.get(level.name, ()))
                    for level in manifest.levels
                ],
                modules=[_left(module, dropped) for module in manifest.modules],
                windows=text_windows(
                    search.text,
                    search.tokens,
                    model=checkpoint or ensemble.model_folder,
                    seed=search.seed if manifest.quantization is None else search.seed + 1,  # the build's own text
                    kept=place.work / "search.txt",
                    progress=progress,
                    device=search.device,
                ),
                checkpoint=checkpoint,
                quantization=manifest.quantization,
                options=search,
                progress=progress,
                pruning=Pruning(
                    keep=options.keep,
                    dropped=dropped,
                    dropped_bytes=pruned.dropped_bytes,
                    dropped_variants=pruned.dropped_variants,
                    variants=variants,
                    footprint_range_bytes=(footprints[-1], footprints[0]),
                ),
            )
    return _compare(manifest, read_manifest(out), units, costs, pruned.kept)


def disk_bytes(manifest: Manifest) -> int:
    """Return the bytes of all files of an ensemble, files of equal content counted once."""
    return sum({record.sha256: record.bytes for record in manifest.files.values()}.values())


def predicted_added(before: Manifest, after: Manifest, allowed_bytes: int) -> float:
    """Return the KL that dropped variants and lowered ones add where so many bytes are allowed, by the sensitivities.

    Args:
        before: The whole ensemble, which says its sensitivities.
        after: The pruned one, or the whole one.
        allowed_bytes: The largest footprint that is allowed; not less than the smallest one.
    """
    layers = _layers(before)
    there = {module.linear: {variant.level for variant in module.variants} for module in after.modules}
    kept = [[variant for variant, level in enumerate(layer.levels) if level in there[layer.key]] for layer in layers]
    sizes, losses = predicted_curve([layer.unit for layer in layers], tuple(layer.costs for layer in layers), kept)
    fits = (loss for size, loss in zip(sizes, losses, strict=True) if before.fixed_bytes + size <= allowed_bytes)
    return next(fits)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A linear layer, whatever slices it is swapped in: what is pruned is a whole layer of a store."""

    key: str
    levels: tuple[str, ...]
    unit: Unit
    costs: tuple[float, ...]


def _layers(manifest: Manifest) -> list[_Layer]:
    of_layer: dict[str, list[Module]] = defaultdict(list)
    for module in manifest.modules:
        of_layer[module.linear].append(module)
    layers = []
    for key, slices in of_layer.items():
        levels = tuple(variant.level for variant in slices[0].variants)
        costs = [module.sensitivity for module in slices]
        if any(cost is None or len(cost) != len(levels) - 1 for cost in costs):
            raise EnsembleError(
                f"{MANIFEST_NAME}: modules: {key} has no sensitivities",
                hint="Build the ensemble with --unit projection, or with that and others.",
            )
        sizes = zip(*([variant.bytes for variant in module.variants] for module in slices), strict=True)
        added = zip(*(cost for cost in costs if cost is not None), strict=True)
        layers.append(_Layer(key, levels, Unit(key, tuple(map(sum, sizes))), tuple(map(sum, added))))
    return layers


def _dropped(manifest: Manifest, layers: Sequence[_Layer], kept: Kept) -> dict[str, list[str]]:
    """Return the keys of the layers that leave each store."""
    found: dict[str, list[str]] = {level.name: [] for level in manifest.levels}
    for layer, left in zip(layers, kept, strict=True):
        for variant, level in enumerate(layer.levels):
            if variant not in left:
                found[level].append(layer.key)
    return {level: keys for level, keys in found.items() if keys}


def _left(module: Module, dropped: dict[str, list[str]]) -> Module:
    variants = [variant for variant in module.variants if module.linear not in dropped.get(variant.level, ())]
    return module.model_copy(update={"variants": variants, "sensitivity": None})


def _write_store(source: Path, target: Path, dropped: Collection[str]) -> None:
    """Give `target` the files of `source`, without the tensors of the layers `dropped`."""
    index = TensorIndex.open(source)
    keys = set(dropped)
    going = {name for name in index.names() if name.rpartition(".")[0] in keys}
    losing = {index[name].file for name in going}
    try:
        target.mkdir(parents=True, exist_ok=True)
        paths = sorted(path for path in source.iterdir() if path.is_file())
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error
    for path in paths:
        if path not in losing:
            share(path, target / path.name)
            continue
        stay = [index[name] for name in index.names() if index[name].file == path and name not in going]
        if stay:
            write_safetensors(target / path.name, {entry.name: entry for entry in stay})


def _compare(before: Manifest, after: Manifest, units: Sequence[Unit], costs: Sensitivity, kept: Kept) -> Outcome:
    whole, pruned = before.sequences[before.default_sequence], after.sequences[after.default_sequence]
    low, up = pruned.footprint_bytes[-1], whole.footprint_bytes[0]
    base = whole.quality[0].kl

    def predicted(choice: Kept) -> float:
        sizes, losses = predicted_curve(units, costs, choice)
        return mean_loss([before.fixed_bytes + size for size in sizes], [base + loss for loss in losses], low, up)

    def measured(manifest: Manifest) -> float:
        sequence = manifest.sequences[manifest.default_sequence]
        return mean_loss(sequence.footprint_bytes, [quality.kl for quality in sequence.quality], low, up)

    return Outcome(
        before=before,
        after=after,
        disk_before=disk_bytes(before),
        disk_after=disk_bytes(after),
        predicted_before=predicted([range(len(unit.sizes)) for unit in units]),
        predicted_after=predicted(kept),
        measured_before=measured(before),
        measured_after=measured(after),
    )
