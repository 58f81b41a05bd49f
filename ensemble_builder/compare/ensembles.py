"""One ensemble of a comparison: all of its orders on the unseen text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UsageError
from flexquant.ensemble_builder.compare.against_ladder import beside_ladder
from flexquant.ensemble_builder.compare.contents import Chosen, Compared
from flexquant.ensemble_builder.compare.downstream import Choices, chosen_right
from flexquant.ensemble_builder.compare.exhaustive import Exhaustive, evaluations_of, measured_exhaustive
from flexquant.ensemble_builder.compare.ladder import Rung
from flexquant.ensemble_builder.compare.options import CompareOptions
from flexquant.ensemble_builder.compare.pruned import pruned_at_rates
from flexquant.ensemble_builder.compare.scores import Scores, state_name
from flexquant.ensemble_builder.compare.search_tree import read_searched, tree_of
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.report.built import read_built, recorded_minutes
from flexquant.ensemble_builder.report.collect import Options as Orders
from flexquant.ensemble_builder.report.collect import baselines, check_unseen, recorded_sensitivities
from flexquant.ensemble_builder.report.contents import Cost, Measured, Report
from flexquant.ensemble_builder.report.findings import methods_of
from flexquant.ensemble_builder.report.ladder import group_size_of
from flexquant.ensemble_builder.report.measure import Curve, measure_routes, positions_near, states_to_measure
from flexquant.ensemble_builder.report.orders import (
    BASELINES,
    EXHAUSTIVE,
    Route,
    own_route,
    route_along,
    units_between,
    whole_model_route,
)
from flexquant.ensemble_builder.report.scorer import Scorer
from flexquant.ensemble_builder.report.sizes import Granularity, ladder_of, storage_of
from flexquant.ensemble_builder.sequence import Assignment, Unit
from flexquant.ensemble_builder.sequence_search import fingerprint
from flexquant.ensemble_builder.window_quality import WindowQuality
from flexquant.ensemble_builder.workplace import SEARCHED_NAME

CHOICES_BETWEEN: Final = 5
"""Positions between the ends at which completions are chosen."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """What all ensembles of a comparison are measured with.

    Args:
        options: What the comparison was told.
        unseen: The text to measure on.
        choices: Questions from the same text.
        search: The text of the searches; None where it is not known.
        pruned: How sequences of pruned ensembles are searched for.
    """

    options: CompareOptions
    unseen: Windows
    choices: Choices
    search: Windows | None
    pruned: SearchOptions


def compare_ensemble(
    folder: Path,
    measuring: Measuring,
    rungs: Sequence[Rung],
    ladder: Mapping[float, tuple[int, int]],
    progress: Progress,
) -> Compared:
    """Measure an ensemble; what an earlier run has measured is not measured again.

    Args:
        folder: The ensemble.
        measuring: Texts and amounts.
        rungs: The whole models.
        ladder: Bytes of their files by width: own, and those that all of them have.
        progress: Is told every evaluation.

    Raises:
        EnsembleError: The ensemble cannot be compared.
        UsageError: Its build has seen the text, or it was built without sensitivities.
    """
    started = time.monotonic()
    options, ensemble = measuring.options, Ensemble.open(folder)
    manifest = ensemble.manifest
    method = f"nested {manifest.method}" if manifest.nested and manifest.method == "exl2" else manifest.method
    name = f"{method} {'-'.join(level.name for level in manifest.levels)}"
    check_unseen(manifest, options.text, measuring.unseen.text.sha256)
    own = own_route(manifest)
    units = units_between(manifest, own.states[-1])
    costs = recorded_sensitivities(manifest, units)
    if costs is None or len(own.states) < 2:
        raise UsageError(
            f"{folder}: has no transitions, or was built without sensitivities", hint="Build the ensemble again."
        )
    measured = options.out / "measured" / folder.resolve().name
    measured.mkdir(parents=True, exist_ok=True)
    exhaustive, without = _exhaustive(ensemble, units, measuring, measured, progress)
    asked = Orders(options.text, options.checkpoint, None, BASELINES, options.between, options.draws, options.seed)
    greedy, *others = baselines(units, manifest.fixed_bytes, costs, asked)
    every = [own, greedy]
    if exhaustive is not None:
        every.append(route_along(EXHAUSTIVE, units, exhaustive.order, manifest.fixed_bytes))
    whole = whole_model_route(manifest, units)
    if whole is not None:
        every.append(whole)
    scorer = Scorer(ensemble, measuring.unseen, options.checkpoint, options.device)
    key = fingerprint(manifest.files, manifest.modules, measuring.unseen, "unquantized")
    with Scores(measured / "unseen.jsonl", key) as scores:
        curves = _curves(name, every, others, options.between, scorer, scores, progress)
        choices = _choices(name, own, scorer, scores, measuring.choices, progress)
    pruned = (
        pruned_at_rates(
            folder,
            options.prune,
            options.checkpoint,
            measuring.unseen,
            measuring.pruned,
            options.out / "ensembles",
            measured,
            progress,
        )
        if options.prune
        else ()
    )
    storage = storage_of(folder, manifest)
    within = [rung for rung in rungs if manifest.levels[-1].bits <= rung.bits <= manifest.levels[0].bits]
    files = [ladder[rung.bits] for rung in within]
    ladder_bytes = sum(alone for alone, _ in files) + files[0][1] if files else None
    count, window = measuring.unseen.tokens.shape
    report = Report(
        manifest=manifest,
        measured=Measured(
            text=measuring.unseen.text,
            windows=count,
            window_tokens=window,
            reference=scorer.reference,
            reference_perplexity=scorer.reference_perplexity,
            between=options.between,
            seed=options.seed,
            sensitivities="build",
            cost=Cost(len(scorer.known), round((time.monotonic() - started) / 60, 2)),
        ),
        methods=tuple(methods_of(curves, options.between)),
        granularity=Granularity.of(own.footprints),
        ladder=ladder_of(manifest, ensemble.config, group_size_of(manifest), storage.shared_bytes),
        storage=storage,
        search=Cost(manifest.search.evaluations, recorded_minutes(read_built(folder))),
    )
    searched = read_searched(folder / SEARCHED_NAME)
    return Compared(
        name=name,
        report=report,
        exhaustive=exhaustive,
        without_exhaustive=without,
        beside=beside_ladder(
            [(point.position, point.footprint_bytes, point.perplexity) for point in curves[0].points],
            [(rung.footprint_bytes, rung.quality.perplexity) for rung in rungs],
        ),
        ladder_bytes=ladder_bytes,
        choices=choices,
        pruned=pruned,
        tree=None if searched is None else tree_of(units, searched, own.states, greedy.states, manifest.fixed_bytes),
    )


def interleaved(routes: Sequence[Route]) -> list[Assignment]:
    """Return the assignments of routes, each once, position by position: neighbours have hidden states in common."""
    columns = zip_longest(*(route.states for route in routes))
    return list(dict.fromkeys(state for column in columns for state in column if state is not None))


def _exhaustive(
    ensemble: Ensemble, units: Sequence[Unit], measuring: Measuring, measured: Path, progress: Progress
) -> tuple[Exhaustive | None, str]:
    """Run exhaustive greedy where that was asked for and can be done; else say why not."""
    options, manifest, search = measuring.options, ensemble.manifest, measuring.search
    needed = evaluations_of(units)
    if needed > options.exhaustive:
        why = f"it takes {needed} evaluations, and {options.exhaustive} were allowed (--exhaustive)"
        return None, f"Exhaustive greedy was not run: {why}."
    evaluation = manifest.evaluation
    if search is None or (search.text.sha256 != evaluation.text.sha256 or len(search.tokens) < evaluation.windows):
        return None, "Exhaustive greedy was not run: the text of this ensemble's search was not given."
    windows = search.first(evaluation.windows)
    scorer = Scorer(ensemble, windows, options.checkpoint, options.device)
    key = fingerprint(manifest.files, manifest.modules, windows, "unquantized")
    return measured_exhaustive(units, scorer.evaluation, measured / "exhaustive.jsonl", key, progress), ""


def _curves(
    name: str,
    every: Sequence[Route],
    others: Sequence[Route],
    between: int,
    scorer: Scorer,
    scores: Scores,
    progress: Progress,
) -> list[Curve]:
    """Measure some routes at every position, and others at some."""
    states = list(dict.fromkeys([*interleaved(every), *states_to_measure(others, between)]))
    done = sum(state_name(state) in scores.qualities for state in states)
    with progress.stage(f"{name}: orders on the unseen text", len(states), done=done) as stage:
        for state in states:
            if state_name(state) not in scores.qualities:
                scores.add_quality(state_name(state), scorer(state))
                stage.advance()

    def known(state: Assignment) -> WindowQuality:
        return scores.qualities[state_name(state)]

    most = max(len(route.states) for route in every)
    return [*measure_routes(every, most, known), *measure_routes(others, between, known)]


def _choices(
    name: str, own: Route, scorer: Scorer, scores: Scores, choices: Choices, progress: Progress
) -> tuple[Chosen, ...]:
    positions = positions_near(own.footprints, CHOICES_BETWEEN)
    done = sum(state_name(own.states[at]) in scores.choices for at in positions)
    with progress.stage(f"{name}: completion choice", len(positions), done=done) as stage:
        for at in positions:
            if state_name(own.states[at]) not in scores.choices:
                scores.add_choices(state_name(own.states[at]), chosen_right(scorer.decoder(own.states[at]), choices))
                stage.advance()
    return tuple(Chosen(at, own.footprints[at], scores.choices[state_name(own.states[at])]) for at in positions)
