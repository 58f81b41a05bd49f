"""compare.html: one file that needs nothing else, in the report's style."""

from collections.abc import Sequence
from html import escape
from statistics import fmean
from typing import Final

from flexquant.ensemble_builder.bootstrap import RESAMPLES
from flexquant.ensemble_builder.compare.against_ladder import AS_GOOD, Beside, worst
from flexquant.ensemble_builder.compare.contents import Compared, Comparison, ratio_text
from flexquant.ensemble_builder.compare.downstream import CONTEXT, CONTINUATION, OPTIONS
from flexquant.ensemble_builder.compare.figures import (
    accuracy_beside_ladder,
    all_ensembles,
    choice_plot,
    kl_beside_ladder,
    perplexity_beside_ladder,
    pruning_plot,
    tree_plot,
)
from flexquant.ensemble_builder.compare.search_tree import Tree, above_taken, without_tallest
from flexquant.ensemble_builder.report.contents import Report
from flexquant.ensemble_builder.report.html import bullets, document, figure, megabytes, table
from flexquant.ensemble_builder.report.orders import EXHAUSTIVE, GREEDY, RANDOM
from flexquant.ensemble_builder.report.page import AREA
from flexquant.ensemble_builder.report.sizes import Granularity
from flexquant.ensemble_builder.report.svg_plot import draw

LEFT_OUT: Final = 0.05
"""Share of a tree's branches, the tallest, that may be left out so that the others can be told apart."""


def page(comparison: Comparison) -> str:
    """Return the whole page."""
    names = ", ".join(compared.name for compared in comparison.compared)
    body = [
        f"<h1>{escape(comparison.model)}: methods beside each other</h1>",
        f"<p>Ensembles: {escape(names)}.</p>",
        _links(comparison),
        '<h2 id="glance">At a glance</h2>',
        f"<p>{AREA}</p>",
        _glance(comparison),
        *_together(comparison),
    ]
    for at, compared in enumerate(comparison.compared):
        body += _ensemble(compared, comparison, f"ensemble-{at}")
    body += [
        '<h2 id="granularity">Granularity</h2>',
        _granularity(comparison),
        '<h2 id="storage">Storage</h2>',
        _storage(comparison),
        '<h2 id="cost">What it took</h2>',
        _costs(comparison),
        '<h2 id="how">How this was measured</h2>',
        bullets(_conditions(comparison)),
    ]
    return document(f"{comparison.model}: comparison", body)


def _links(comparison: Comparison) -> str:
    ensembles = [(f"ensemble-{at}", compared.name) for at, compared in enumerate(comparison.compared)]
    rest = [("granularity", "granularity"), ("storage", "storage"), ("cost", "what it took"), ("how", "how")]
    links = [f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in [*ensembles, *rest]]
    return f"<p>{' · '.join(links)}</p>"


def _glance(comparison: Comparison) -> str:
    rows = [
        [
            compared.name,
            f"{compared.own.area:.4g}",
            ratio_text(compared.own, compared.method(GREEDY)),
            ratio_text(compared.own, compared.method(EXHAUSTIVE)) or "not run",
            f"{worst(compared.beside).ratio:.4f}x" if compared.beside else "",
        ]
        for compared in comparison.compared
    ]
    head = ["ensemble", "area under KL", "over greedy (95 %)", "over exhaustive (95 %)", "worst perplexity / ladder"]
    return table(head, rows, "Of the search's sequence. Below 1 the search is better than the other order")


def _together(comparison: Comparison) -> list[str]:
    caption = (
        "Marks are measured models. The dotted line is the ladder of whole models, one every 0.25 bits (the paper's "
        "Base-Ex). Dashed: Any-Precision with the whole model at one width (Base-AP), and pruned ensembles (PFQ-Ex)."
    )
    plots = [
        all_ensembles(
            comparison,
            lambda quality: quality.mean_kl,
            "KL over footprint, one line per ensemble",
            "KL from the unquantized model, nats per token (lower is better)",
        ),
        all_ensembles(
            comparison,
            lambda quality: quality.perplexity,
            "Perplexity over footprint, one line per ensemble",
            "perplexity (lower is better)",
        ),
        all_ensembles(
            comparison,
            lambda quality: 100 * quality.accuracy,
            "Next-token accuracy over footprint, one line per ensemble",
            "tokens predicted right, % (higher is better)",
        ),
    ]
    return [
        "<h2>All ensembles beside whole models</h2>",
        *(figure(draw(plot), caption) for plot in plots),
        bullets(comparison.between()) if len(comparison.compared) > 1 else "",
        figure(draw(choice_plot(comparison)), _choice_caption(comparison)),
    ]


def _choice_caption(comparison: Comparison) -> str:
    rights = [fmean(rung.choices) for rung in comparison.rungs] or [0.5]
    error = 100 * (rights[0] * (1 - rights[0]) / comparison.questions) ** 0.5
    return (
        f"{comparison.questions} questions: which of {OPTIONS} continuations of a passage is the true one. One "
        f"standard error is {error:.1f} points: smaller differences may be chance."
    )


def _ensemble(compared: Compared, comparison: Comparison, anchor: str) -> list[str]:
    rungs = comparison.rungs
    several = any(len(method.curves) > 1 for method in compared.report.methods)
    shade = " The shaded band is the range of the random draws." if several else ""
    body = [
        f'<h2 id="{anchor}">{escape(compared.name)}</h2>',
        bullets(compared.findings()),
        figure(draw(kl_beside_ladder(compared, rungs)), f"All orders have the same two ends.{shade}"),
        figure(draw(perplexity_beside_ladder(compared, rungs)), "The same models, as perplexity on the same text."),
        figure(
            draw(accuracy_beside_ladder(compared, rungs)), "The share of tokens whose most probable guess is right."
        ),
        _areas(compared),
        *_beside(compared.beside),
        *_pruning(compared),
    ]
    if compared.tree is not None:
        shown, left_out = without_tallest(above_taken(compared.tree), LEFT_OUT)
        body.append(figure(draw(tree_plot(shown)), _tree_caption(compared.tree, left_out)))
    return body


def _areas(compared: Compared) -> str:
    rows = []
    for method in compared.report.methods:
        least, most = method.area_range
        low, high = method.area_interval
        rows.append(
            [
                method.label,
                f"{method.area:.4g}",
                f"{low:.4g} to {high:.4g}",
                f"{least:.4g} to {most:.4g}" if len(method.curves) > 1 else "",
                "" if method is compared.own else ratio_text(compared.own, method),
            ]
        )
    head = ["order", "area under KL", "95 %", "range over draws", "search / this (95 %)"]
    return table(head, rows, "Nats per token; less is better")


def _beside(beside: Sequence[Beside]) -> list[str]:
    if not beside:
        return []
    rows = [
        [
            str(found.position),
            f"{found.footprint_bytes / 1e6:.3f}",
            f"{found.perplexity:.5g}",
            f"{found.ladder:.5g}",
            f"{found.ratio:.4f}x",
        ]
        for found in beside
    ]
    head = ["position", "footprint, MB", "perplexity", "whole model's", "ratio"]
    last = worst(beside)
    summary = f"{len(beside)} positions beside whole models of equal footprint; worst: {last.ratio:.4f}x"
    return [f"<details><summary>{escape(summary)}</summary>{table(head, rows, '')}</details>"]


def _pruning(compared: Compared) -> list[str]:
    if not compared.pruned:
        return []
    caption = (
        "One line for each footprint that is allowed, as a share of the way from the whole ensemble's smallest to its "
        "largest; the best position that fits is measured. Every layer keeps its smallest variant."
    )
    kl = pruning_plot(
        compared,
        lambda quality: quality.mean_kl,
        "KL over pruning rate",
        "KL from the unquantized model, nats per token (lower is better)",
    )
    perplexity = pruning_plot(
        compared, lambda quality: quality.perplexity, "Perplexity over pruning rate", "perplexity (lower is better)"
    )
    whole = compared.pruned[0]
    rows = [
        [
            f"{pruned.dropped_variants} of {pruned.variants}",
            megabytes(pruned.disk_bytes),
            f"{1 - pruned.disk_bytes / whole.disk_bytes:.1%}",
            megabytes(pruned.footprints[1]),
            *(f"{allowed.quality.mean_kl:.4g} ({allowed.predicted_kl:.4g})" for allowed in pruned.allowed),
        ]
        for pruned in compared.pruned
    ]
    head = [
        "variants dropped",
        "on disk",
        "less",
        "largest footprint",
        *(f"KL at {allowed.share:.0%} (predicted)" for allowed in whole.allowed),
    ]
    return [
        figure(draw(kl), caption),
        figure(draw(perplexity), "The same models, as perplexity on the same text."),
        table(head, rows, "Pruned at several rates; predicted from the sensitivities as if costs added up"),
    ]


def _tree_caption(tree: Tree, left_out: int) -> str:
    said = (
        f"The search tree: {tree.nodes} measured models, by how much worse they are than the sequence at the same "
        "footprint. The thick line at 0 is the sequence that was taken, the dashed one the first stem. Each dot is a "
        "branch: a candidate that was measured and not taken, hanging from the model it was tried from. The fan at the "
        f"right, {tree.single} dots, is the sensitivities."
    )
    return f"{said} {left_out} branches rise above the frame." if left_out else said


def _granularity(comparison: Comparison) -> str:
    rows = []
    for compared in comparison.compared:
        ladder = compared.report.ladder_granularity
        rows.append(
            [
                compared.name,
                *_steps(compared.report.granularity),
                *(_steps(ladder) if ladder is not None else ["", "", ""]),
            ]
        )
    head = ["ensemble", "steps", "mean step", "largest", "ladder's steps", "mean step", "largest"]
    return table(head, rows, "Footprint differences between neighbouring positions, and between neighbouring rungs")


def _steps(granularity: Granularity) -> list[str]:
    return [str(granularity.steps), megabytes(granularity.mean_bytes), megabytes(granularity.most_bytes)]


def _storage(comparison: Comparison) -> str:
    rows = []
    for compared in comparison.compared:
        own, ladder = compared.report.storage.once_bytes, compared.ladder_bytes
        rows.append(
            [
                compared.name,
                megabytes(own),
                megabytes(compared.report.storage.disk_bytes),
                "" if ladder is None else megabytes(ladder),
                "" if ladder is None else f"{ladder / own:.1f}x",
            ]
        )
    head = ["ensemble", "stores, shared files once", "on this disk", "the ladder's, shared once", "ladder / ensemble"]
    return table(head, rows, "The ladder has a rung every 0.25 bits between the ensemble's highest and lowest level")


def _costs(comparison: Comparison) -> str:
    rows = []
    for compared in comparison.compared:
        search, units = compared.report.search, compared.report.manifest.modules
        transitions = sum(len(module.variants) - 1 for module in units)
        rows.append([f"{compared.name}: search", str(search.evaluations), _minutes(search.minutes)])
        rows.append(["greedy by sensitivity", str(transitions + 1), "not recorded"])
        if compared.exhaustive is not None:
            found = compared.exhaustive
            rows.append(["exhaustive greedy", str(found.evaluations), _minutes(found.minutes)])
        rows.append(["random, front to back, back to front", "0", "0.0"])
    rows.append([f"ladder of {len(comparison.rungs)} whole models", "", _minutes(comparison.ladder_minutes)])
    return table(["", "evaluations", "minutes"], rows, "Finding an order; a ladder needs none, but has to be made")


def _minutes(minutes: float | None) -> str:
    return "not recorded" if minutes is None else f"{minutes:.1f}"


def _conditions(comparison: Comparison) -> list[str]:
    first = comparison.compared[0].report
    said = [
        f"Text: {first.measured.text.name}, {first.measured.windows} windows of {first.measured.window_tokens} tokens "
        f"(sha256 {first.measured.text.sha256[:12]}…). Non-overlapping, logits in float32. No build has seen it.",
        "KL is measured from the unquantized model.",
        f"Intervals: 95 %, bootstrap over windows, {RESAMPLES:,} resamples with a fixed seed; two methods share the "
        "windows. They tell about other text of this kind, not about other models.",
        _which_positions(first),
        f"The ladder's whole models are made by our quantizer, calibrated on {comparison.calibration.name}. Between "
        f"rungs its perplexity is taken as linear in the footprint. A position is called as good up to {AS_GOOD}x.",
        f"Completion choice: passages of {CONTEXT} tokens, continuations of {CONTINUATION}; beside the true one stand "
        f"{OPTIONS - 1} of other passages of the text, drawn with seed {first.measured.seed}. The highest mean "
        "log-likelihood is chosen.",
        "Greedy goes by the sensitivities that the build measured on the search text; exhaustive greedy measures every "
        "candidate at every step on the search text.",
    ]
    for compared in comparison.compared:
        evaluation, quantization = compared.report.manifest.evaluation, compared.report.manifest.quantization
        said.append(
            f"{compared.name}: searched on {evaluation.text.name}, {evaluation.windows} windows of "
            f"{evaluation.window_tokens} tokens."
        )
        if quantization is None:
            said.append(f"{compared.name}: the levels were imported, so the ladder is of another making.")
        elif quantization.calibration.sha256 != comparison.calibration.sha256:
            said.append(
                f"{compared.name}: calibrated on {quantization.calibration.name}, another text than the ladder's, so "
                "the two do not differ by their method alone."
            )
    return said


def _which_positions(report: Report) -> str:
    draws = next((len(method.curves) for method in report.methods if method.name == RANDOM), 0)
    return (
        f"The sequence, greedy and exhaustive greedy are measured at every position; {draws} random orders, front to "
        f"back and back to front at both ends and about {report.measured.between} positions between them, with "
        "straight lines from one to the next."
    )
