"""report.html: one file that needs nothing else. No script, no network; light and dark as the reader's system is."""

from collections.abc import Sequence
from html import escape
from typing import Final

from flexquant.engine.manifest import Manifest
from flexquant.ensemble_builder.bootstrap import RESAMPLES
from flexquant.ensemble_builder.report.contents import Cost, Report
from flexquant.ensemble_builder.report.figures import kl_plot, perplexity_plot
from flexquant.ensemble_builder.report.findings import verdicts
from flexquant.ensemble_builder.report.html import bullets, document, figure, megabytes, table
from flexquant.ensemble_builder.report.orders import RANDOM
from flexquant.ensemble_builder.report.sizes import Granularity
from flexquant.ensemble_builder.report.svg_plot import draw

AREA: Final = (
    "Orders are compared by the area under KL over footprint: the mean KL if every footprint between the ends is "
    "equally likely. Less is better."
)


def page(report: Report) -> str:
    """Return the whole page."""
    name = escape(report.manifest.name)
    levels = _levels([f"{level.bits:g}" for level in report.manifest.levels])
    body = [
        f"<h1>{name}: {escape(levels)}</h1>",
        f"<p>{escape(_summary(report))}</p>",
        "<h2>Findings</h2>",
        f"<p>{AREA}</p>",
        bullets(verdicts(report.methods)),
        "<h2>Quality over footprint</h2>",
        figure(draw(kl_plot(report)), _kl_caption(report)),
        figure(draw(perplexity_plot(report)), "The same positions, as perplexity on the same text."),
        "<h2>Area under KL</h2>",
        _areas(report),
        "<h2>Granularity</h2>",
        *_granularity(report),
        "<h2>Storage</h2>",
        *_storage(report),
        "<h2>What it took</h2>",
        _costs(report),
        "<h2>How this was measured</h2>",
        bullets(_conditions(report)),
        "<h2>All measured positions</h2>",
        _points(report),
    ]
    return document(f"{report.manifest.name}: report", body)


def _levels(bits: Sequence[str]) -> str:
    *others, last = bits
    return f"{', '.join(others)} and {last} bits" if others else f"{last} bits"


def _summary(report: Report) -> str:
    own = report.methods[0].curves[0]
    first, last = own.points[0], own.points[-1]
    return (
        f"{report.granularity.steps} transitions lead from {megabytes(first.footprint_bytes)} (perplexity "
        f"{first.perplexity:.5g}, KL {first.kl:.2g}) to {megabytes(last.footprint_bytes)} (perplexity "
        f"{last.perplexity:.5g}, KL {last.kl:.2g})."
    )


def _kl_caption(report: Report) -> str:
    dots = "every position" if report.exact else "the measured positions; lines between them are straight"
    several = any(len(method.curves) > 1 for method in report.methods)
    shade = " The shaded band is the range of the random draws." if several else ""
    return f"All orders have the same two ends. Marks are {dots}.{shade}"


def _areas(report: Report) -> str:
    own = report.methods[0].area
    rows = []
    for method in report.methods:
        least, most = method.area_range
        rows.append(
            [
                method.label,
                f"{method.area:.4g}",
                f"{least:.4g} to {most:.4g}" if len(method.curves) > 1 else "",
                f"{method.area / own:.3f}x" if own > 0 else "",
                str(sum(len(curve.points) for curve in method.curves)),
            ]
        )
    head = ["order", "area under KL", "range over draws", "against the sequence", "positions measured"]
    return table(head, rows, "Nats per token; less is better")


def _granularity(report: Report) -> list[str]:
    rows = [["this ensemble's sequence", *_steps(report.granularity), "", ""]]
    ladder, coarse = report.ladder, report.ladder_granularity
    if ladder is None or coarse is None:
        note = "No ladder of whole models is shown: a level is outside the widths that a whole model can have."
    else:
        mean, most = (
            f"{coarse.mean_bytes / report.granularity.mean_bytes:.1f}x",
            f"{coarse.most_bytes / report.granularity.most_bytes:.1f}x",
        )
        rows.append(["whole models, one every 0.25 bits", *_steps(coarse), mean, most])
        note = (
            f"The ladder is computed from the model's config (groups of {ladder.group_size} weights), not made: "
            f"{len(ladder.bits)} whole models of {ladder.bits[-1]:g} to {ladder.bits[0]:g} bits."
        )
    head = ["", "steps", "mean step", "largest step", "mean, coarser by", "largest, coarser by"]
    return [table(head, rows, "Footprint differences between neighbouring positions"), f"<p>{escape(note)}</p>"]


def _steps(granularity: Granularity) -> list[str]:
    return [str(granularity.steps), megabytes(granularity.mean_bytes), megabytes(granularity.most_bytes)]


def _storage(report: Report) -> list[str]:
    storage, ladder = report.storage, report.ladder
    rows = [[f"store {name}", megabytes(size)] for name, size in storage.stores.items()]
    rows += [
        ["of that in every store, once", megabytes(storage.shared_bytes)],
        ["all stores, shared files once", megabytes(storage.once_bytes)],
        ["all stores, as they lie on this disk", megabytes(storage.disk_bytes)],
    ]
    if ladder is not None:
        rows.append([f"the ladder of {len(ladder.bits)} whole models, computed", megabytes(ladder.storage_bytes)])
    notes = []
    if storage.disk_bytes > storage.once_bytes:
        notes.append("<p>Some files that the stores have in common are copies here, not hard links.</p>")
    if ladder is not None:
        notes.append(f"<p>The ladder takes {ladder.storage_bytes / storage.once_bytes:.1f}x the storage.</p>")
    return [table(["", "size"], rows, "Files on disk"), *notes]


def _costs(report: Report) -> str:
    rows = [["finding the sequence", *_cost(report.search)], ["this report", *_cost(report.measured.cost)]]
    return table(["", "evaluations", "minutes"], rows, f"Search: {report.manifest.search.method}")


def _cost(cost: Cost) -> list[str]:
    return [str(cost.evaluations), "not recorded" if cost.minutes is None else f"{cost.minutes:.1f}"]


def _conditions(report: Report) -> list[str]:
    measured, manifest = report.measured, report.manifest
    said = [
        f"Text: {measured.text.name}, {measured.windows} windows of {measured.window_tokens} tokens "
        f"(sha256 {measured.text.sha256[:12]}…). Non-overlapping, logits in float32.",
        f"The text is not {_seen(manifest)}. Whether they share passages was not checked.",
    ]
    if manifest.quantization is None:
        said.append("The levels were imported; what they were calibrated on is not known.")
    said.append(
        "KL is measured from the unquantized model."
        if measured.reference == "unquantized"
        else "KL is measured from position 0, because the unquantized model was not given."
    )
    if measured.sensitivities == "build":
        said.append("Greedy goes by the sensitivities that the build measured on the search text.")
    elif measured.sensitivities == "report text":
        said.append(
            "Greedy goes by sensitivities measured on this report's own text, because the manifest has none. "
            "That favours it."
        )
    if not report.exact:
        said.append(
            f"About {measured.between} positions between the ends were measured per order. Areas take quality as "
            "linear between them."
        )
    if any(method.name == RANDOM for method in report.methods):
        said.append(f"Random orders have seed {measured.seed}.")
    if measured.windows > 1:
        said.append(f"Intervals: 95 %, bootstrap over windows, {RESAMPLES:,} resamples; two orders share the windows.")
    return [*said, "On a short text small differences can be chance."]


def _seen(manifest: Manifest) -> str:
    """The texts that made the ensemble."""
    search = f"the search text ({manifest.evaluation.text.name})"
    if manifest.quantization is None:
        return search
    return f"{search} or the calibration text ({manifest.quantization.calibration.name})"


def _points(report: Report) -> str:
    rows = [
        [
            method.label if curve.route.draw is None else f"random, draw {curve.route.draw + 1}",
            str(point.position),
            f"{point.footprint_bytes / 1e6:.3f}",
            f"{point.perplexity:.5g}",
            f"{point.kl:.5g}",
        ]
        for method in report.methods
        for curve in method.curves
        for point in curve.points
    ]
    points = table(["order", "position", "footprint, MB", "perplexity", "KL"], rows, "")
    return f"<details><summary>{len(rows)} rows</summary>{points}</details>"
