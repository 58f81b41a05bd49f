"""An ensemble pruned at several rates, measured at several footprints: the paper's Figure 4."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import Manifest
from flexquant.ensemble_builder.compare.scores import Scores, state_name
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.pruned_ensemble import PruneOptions, disk_bytes, predicted_added, prune_ensemble
from flexquant.ensemble_builder.report.orders import own_route
from flexquant.ensemble_builder.report.scorer import Scorer
from flexquant.ensemble_builder.sequence_search import fingerprint
from flexquant.ensemble_builder.window_quality import WindowQuality

SHARES: Final = (1.0, 0.75, 0.5, 0.25)
"""Footprints that are allowed, as shares of the range between the whole ensemble's ends, from the smallest on."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A pruned ensemble where so many bytes are allowed: its best position that fits.

    Args:
        share: Of the whole ensemble's range.
        allowed_bytes: The same in bytes.
        position: Of the pruned ensemble.
        footprint_bytes: What it takes there.
        quality: On the unseen text.
        predicted_kl: The whole ensemble's KL at its best, and what the sensitivities say that the rest adds.
    """

    share: float
    allowed_bytes: int
    position: int
    footprint_bytes: int
    quality: WindowQuality
    predicted_kl: float


@dataclass(frozen=True, slots=True)
class PrunedAt:
    """An ensemble at one pruning rate; at rate 0 it is whole.

    Args:
        rate: Share of all variants that was asked for.
        dropped_variants: How many are gone.
        variants: Of how many.
        disk_bytes: All files, files of equal content once.
        footprints: Smallest and largest.
        positions: Transitions and one.
        allowed: At `SHARES`.
    """

    rate: float
    dropped_variants: int
    variants: int
    disk_bytes: int
    footprints: tuple[int, int]
    positions: int
    allowed: tuple[Allowed, ...]


def pruned_at_rates(
    folder: Path,
    rates: Sequence[float],
    checkpoint: Path,
    unseen: Windows,
    search: SearchOptions,
    out: Path,
    measured: Path,
    progress: Progress,
) -> tuple[PrunedAt, ...]:
    """Prune an ensemble at every rate and measure what is left; what is there already is not made again.

    Args:
        folder: The whole ensemble.
        rates: Shares of all variants, rising; the whole ensemble comes before them.
        checkpoint: The unquantized model.
        unseen: The text to measure on.
        search: How sequences of what is left are searched for.
        out: Where the pruned ensembles go.
        measured: Where figures are kept.
        progress: Is told what is being done.

    Raises:
        FlexQuantError: See `prune_ensemble`.
    """
    whole = Ensemble.open(folder)
    low, up = _range(whole.manifest)
    sizes = {share: low + round(share * (up - low)) for share in SHARES}
    found: list[PrunedAt] = []
    for rate in (0.0, *rates):
        ensemble = whole
        if rate:
            target = out / f"{folder.resolve().name}-pruned-{rate:g}"
            options = PruneOptions(rate=rate, limit_bytes=None, keep="smallest")
            prune_ensemble(folder, target, checkpoint, options, search, progress)
            ensemble = Ensemble.open(target)
        manifest, route = ensemble.manifest, own_route(ensemble.manifest)
        fits = {
            share: next(at for at, footprint in enumerate(route.footprints) if footprint <= size)
            for share, size in sizes.items()
        }
        at = sorted({*fits.values()})
        qualities = _measured(ensemble, at, checkpoint, unseen, measured, rate, search.device, progress)
        base = qualities[0].mean_kl if not found else found[0].allowed[0].quality.mean_kl
        pruning = manifest.pruning
        found.append(
            PrunedAt(
                rate=rate,
                dropped_variants=0 if pruning is None else pruning.dropped_variants,
                variants=_variants(whole.manifest) if pruning is None else pruning.variants,
                disk_bytes=disk_bytes(manifest),
                footprints=_range(manifest),
                positions=len(route.footprints),
                allowed=tuple(
                    Allowed(
                        share=share,
                        allowed_bytes=size,
                        position=fits[share],
                        footprint_bytes=route.footprints[fits[share]],
                        quality=qualities[fits[share]],
                        predicted_kl=base + predicted_added(whole.manifest, manifest, size),
                    )
                    for share, size in sizes.items()
                ),
            )
        )
    return tuple(found)


def _measured(
    ensemble: Ensemble,
    positions: Sequence[int],
    checkpoint: Path,
    unseen: Windows,
    measured: Path,
    rate: float,
    device: str,
    progress: Progress,
) -> dict[int, WindowQuality]:
    """Measure positions of an ensemble on the unseen text."""
    manifest = ensemble.manifest
    states = own_route(manifest).states
    key = fingerprint(manifest.files, manifest.modules, unseen, "unquantized")
    with Scores(measured / f"pruned-{rate:g}.jsonl", key) as scores:
        names = {position: state_name(states[position]) for position in positions}
        missing = [position for position in positions if names[position] not in scores.qualities]
        title = f"pruned at {rate:.0%}: on the unseen text"
        with progress.stage(title, len(positions), done=len(positions) - len(missing)) as stage:
            scorer = Scorer(ensemble, unseen, checkpoint, device) if missing else None
            for position in missing:
                if scorer is not None:
                    scores.add_quality(names[position], scorer(states[position]))
                stage.advance()
        return {position: scores.qualities[name] for position, name in names.items()}


def _range(manifest: Manifest) -> tuple[int, int]:
    footprints = manifest.sequences[manifest.default_sequence].footprint_bytes
    return footprints[-1], footprints[0]


def _variants(manifest: Manifest) -> int:
    """Variants of whole layers."""
    return sum({module.linear: len(module.variants) for module in manifest.modules}.values())
