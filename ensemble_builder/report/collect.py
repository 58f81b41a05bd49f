"""Collects what a report tells: opens the stores, measures the orders on the text, sizes the rest."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import Manifest
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.evaluation import Windows, read_text
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.report.built import recorded_minutes
from flexquant.ensemble_builder.report.contents import Cost, Measured, Report
from flexquant.ensemble_builder.report.findings import methods_of
from flexquant.ensemble_builder.report.ladder import group_size_of
from flexquant.ensemble_builder.report.measure import measure_routes, states_to_measure
from flexquant.ensemble_builder.report.orders import (
    BACK,
    FRONT,
    GREEDY,
    RANDOM,
    Route,
    back_to_front,
    front_to_back,
    own_route,
    random_orders,
    route_along,
    units_between,
    whole_model_route,
)
from flexquant.ensemble_builder.report.scorer import Scorer
from flexquant.ensemble_builder.report.sizes import Granularity, ladder_of, storage_of
from flexquant.ensemble_builder.sensitivity import Sensitivity, greedy_order, sensitivities, single_states
from flexquant.ensemble_builder.sequence import Assignment, Unit, best
from flexquant.ensemble_builder.window_quality import WindowQuality


@dataclass(frozen=True, slots=True)
class Options:
    """What a report is told.

    Args:
        text: File with the text.
        checkpoint: The unquantized model, for KL; position 0 takes its place if None.
        windows: Most windows of the text; all if None.
        orders: Keys of `orders.BASELINES`.
        between: Positions to measure between the ends of each order.
        draws: Random orders.
        seed: Of the random orders.
        device: Where it is measured, by torch's name.
    """

    text: Path
    checkpoint: Path | None
    windows: int | None
    orders: tuple[str, ...]
    between: int
    draws: int
    seed: int
    device: str = "cpu"


def report_on(ensemble: Ensemble, built: Mapping[str, object], options: Options, progress: Progress) -> Report:
    """Measure everything that a report tells.

    Args:
        ensemble: The ensemble.
        built: What `read_built` found.
        options: What to measure.
        progress: Is told every evaluation.

    Raises:
        EnsembleError: The ensemble cannot be reported on.
        CheckpointError: The checkpoint cannot be read or is of another model.
        UsageError: The text is the one that was searched or calibrated on, or there is nothing to report on.
        InputError: The text cannot be used.
    """
    started = time.monotonic()
    config, manifest = ensemble.config, ensemble.manifest
    own = own_route(manifest)
    if len(own.states) < 2:
        raise UsageError(f"{ensemble.folder}: the sequence has no transitions, so there is nothing to report on")
    units = units_between(manifest, own.states[-1])
    windows = Windows.of_text(
        read_text(options.text),
        options.text.name,
        Tokenizer.open(ensemble.tokenizer_folder),
        config,
        limit=options.windows,
    )
    check_unseen(manifest, options.text, windows.text.sha256)
    scorer = Scorer(ensemble, windows, options.checkpoint, options.device)
    costs = recorded_sensitivities(manifest, units)
    source: Literal["build", "report text"] | None = None
    if GREEDY in options.orders:
        source = "report text" if costs is None else "build"
        if costs is None:
            costs = measured_sensitivities(units, scorer, progress)
    whole = whole_model_route(manifest, units)
    routes = [own, *baselines(units, manifest.fixed_bytes, costs, options), *([] if whole is None else [whole])]
    with progress.stage("measuring orders", len(states_to_measure(routes, options.between))) as stage:

        def advancing(state: Assignment) -> WindowQuality:
            found = scorer(state)
            stage.advance()
            return found

        curves = measure_routes(routes, options.between, advancing)
    storage = storage_of(ensemble.folder, manifest)
    count, window = windows.tokens.shape
    return Report(
        manifest=manifest,
        measured=Measured(
            text=windows.text,
            windows=count,
            window_tokens=window,
            reference=scorer.reference,
            reference_perplexity=scorer.reference_perplexity,
            between=options.between,
            seed=options.seed,
            sensitivities=source,
            cost=Cost(len(scorer.known), round((time.monotonic() - started) / 60, 2)),
        ),
        methods=tuple(methods_of(curves, options.between)),
        granularity=Granularity.of(own.footprints),
        ladder=ladder_of(manifest, config, group_size_of(manifest), storage.shared_bytes),
        storage=storage,
        search=Cost(manifest.search.evaluations, recorded_minutes(built)),
    )


def check_unseen(manifest: Manifest, text: Path, sha256: str) -> None:
    """Check that the text is not the one that the sequence was searched on or the levels were calibrated on.

    Raises:
        UsageError: It is.
    """
    seen = [("the sequence was searched on it", manifest.evaluation.text)]
    if manifest.quantization is not None:
        seen.append(("the levels were calibrated on it", manifest.quantization.calibration))
    for how, known in seen:
        if known.sha256 == sha256:
            raise UsageError(
                f"--text {text}: {how}, so its figures would flatter the ensemble", hint="Give a third text."
            )


def recorded_sensitivities(manifest: Manifest, units: Sequence[Unit]) -> Sensitivity | None:
    """Return the sensitivities that the build measured; None unless the manifest has all of them."""
    found = []
    for module, unit in zip(manifest.modules, units, strict=True):
        costs = module.sensitivity or []
        if len(costs) < unit.steps:
            return None
        found.append(tuple(costs[: unit.steps]))
    return tuple(found)


def measured_sensitivities(units: Sequence[Unit], scorer: Scorer, progress: Progress) -> Sensitivity:
    """Measure the sensitivities on the report's text."""
    states = [best(units), *single_states(units)]
    with progress.stage("measuring sensitivities", len(states)) as stage:
        for state in states:
            scorer(state)
            stage.advance()
    return sensitivities(units, {state: scorer.known[state].mean_kl for state in states})


def baselines(units: Sequence[Unit], fixed_bytes: int, costs: Sensitivity | None, options: Options) -> list[Route]:
    """Return the orders that were asked for.

    Args:
        units: What is lowered.
        fixed_bytes: Resident bytes that no position changes.
        costs: Sensitivities; needed by greedy alone.
        options: Which orders.
    """
    routes = []
    if GREEDY in options.orders and costs is not None:
        routes.append(route_along(GREEDY, units, greedy_order(units, costs), fixed_bytes))
    if RANDOM in options.orders:
        orders = random_orders(units, options.draws, options.seed)
        routes += [route_along(RANDOM, units, order, fixed_bytes, draw) for draw, order in enumerate(orders)]
    if FRONT in options.orders:
        routes.append(route_along(FRONT, units, front_to_back(units), fixed_bytes))
    if BACK in options.orders:
        routes.append(route_along(BACK, units, back_to_front(units), fixed_bytes))
    return routes
