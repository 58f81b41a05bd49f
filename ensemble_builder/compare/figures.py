"""The comparison's plots: each ensemble's orders beside the ladder, all ensembles together, and the search tree."""

from collections.abc import Callable, Sequence
from statistics import fmean

from flexquant.ensemble_builder.compare.contents import Compared, Comparison
from flexquant.ensemble_builder.compare.ladder import Rung
from flexquant.ensemble_builder.compare.search_tree import Node, Tree
from flexquant.ensemble_builder.report.figures import kl_plot, method_line, perplexity_plot
from flexquant.ensemble_builder.report.findings import Method
from flexquant.ensemble_builder.report.orders import EXHAUSTIVE, GREEDY, OWN, WHOLE
from flexquant.ensemble_builder.report.svg_plot import Line, Plot, Points
from flexquant.ensemble_builder.window_quality import WindowQuality

X_LABEL = "resident weights, MB"
LADDER = "whole models"
ENSEMBLE_STYLES = 6
"""Lines of several ensembles have this many colours and marks."""


def kl_beside_ladder(compared: Compared, rungs: Sequence[Rung]) -> Plot:
    """Return KL over footprint: the ensemble's orders, and whole models of the same range."""
    return _with(kl_plot(compared.report), _ladder_line(compared, rungs, lambda quality: quality.mean_kl))


def perplexity_beside_ladder(compared: Compared, rungs: Sequence[Rung]) -> Plot:
    """Return perplexity over footprint, likewise."""
    return _with(perplexity_plot(compared.report), _ladder_line(compared, rungs, lambda quality: quality.perplexity))


def accuracy_beside_ladder(compared: Compared, rungs: Sequence[Rung]) -> Plot:
    """Return next-token accuracy over footprint: the sequence, greedy, exhaustive greedy and whole models."""
    lines = [
        method_line(method, lambda quality: 100 * quality.accuracy)
        for method in compared.report.methods
        if method.name in (OWN, GREEDY, EXHAUSTIVE)
    ]
    ladder = _ladder_line(compared, rungs, lambda quality: 100 * quality.accuracy)
    return Plot(
        title="Next-token accuracy over footprint",
        x_label=X_LABEL,
        y_label="tokens predicted right, % (higher is better)",
        lines=(*lines, *ladder),
    )


def all_ensembles(comparison: Comparison, figure: Callable[[WindowQuality], float], title: str, y_label: str) -> Plot:
    """Return one line per ensemble, its own sequence, and one for the ladder.

    Beside these: Any-Precision's whole model at one width after the other, and ensembles pruned at the highest rate.
    """
    lines = [
        Line(compared.name, f"ensemble-{at % ENSEMBLE_STYLES}", _points(compared.own, figure))
        for at, compared in enumerate(comparison.compared)
    ]
    for compared in comparison.compared:
        whole = compared.method(WHOLE)
        if whole is not None:
            lines.append(Line(f"{compared.name}, one width", WHOLE, _points(whole, figure)))
        if len(compared.pruned) > 1:
            last = compared.pruned[-1]
            allowed = {found.footprint_bytes / 1e6: figure(found.quality) for found in last.allowed}
            lines.append(Line(f"{compared.name}, {last.rate:.0%} pruned", "pruned", tuple(allowed.items())))
    rungs = tuple((rung.footprint_bytes / 1e6, figure(rung.quality)) for rung in comparison.rungs)
    ladder = [Line(LADDER, "ladder", rungs)] if rungs else []
    return Plot(title=title, x_label=X_LABEL, y_label=y_label, lines=(*ladder, *lines))


def choice_plot(comparison: Comparison) -> Plot:
    """Return completion choice over footprint: one line per ensemble and one for the ladder."""
    lines = [
        Line(
            compared.name,
            f"ensemble-{at % ENSEMBLE_STYLES}",
            tuple((chosen.footprint_bytes / 1e6, 100 * fmean(chosen.right)) for chosen in compared.choices),
        )
        for at, compared in enumerate(comparison.compared)
    ]
    whole = tuple((rung.footprint_bytes / 1e6, 100 * fmean(rung.choices)) for rung in comparison.rungs)
    ladder = [Line(LADDER, "ladder", whole)] if whole else []
    return Plot(
        title="Completion choice over footprint",
        x_label=X_LABEL,
        y_label="completions chosen right, % (higher is better; chance is 25)",
        lines=(*ladder, *lines),
    )


def pruning_plot(compared: Compared, figure: Callable[[WindowQuality], float], title: str, y_label: str) -> Plot:
    """Return a figure over the pruning rate, one line for each footprint that is allowed."""
    lines = [
        Line(
            f"{first.share:.0%} of the range",
            f"ensemble-{at % ENSEMBLE_STYLES}",
            tuple(
                (100 * pruned.dropped_variants / pruned.variants, figure(pruned.allowed[at].quality))
                for pruned in compared.pruned
            ),
        )
        for at, first in enumerate(compared.pruned[0].allowed)
    ]
    return Plot(title=title, x_label="variants of layers that were dropped, %", y_label=y_label, lines=tuple(lines))


def tree_plot(tree: Tree) -> Plot:
    """Return what a search measured: branches as thin lines that end in a dot, stems as lines with marks.

    Args:
        tree: See `above_taken`.
    """
    return Plot(
        title="The search tree: everything that the search measured, above the sequence that was taken",
        x_label=X_LABEL,
        y_label="KL above the taken sequence's at equal footprint, nats per token (search text)",
        lines=(
            Line("taken: the sequence", OWN, _nodes(tree.taken)),
            Line("first stem: greedy by sensitivity", GREEDY, _nodes(tree.greedy)),
        ),
        branches=tuple((_nodes((start,))[0], _nodes((end,))[0]) for start, end in tree.branches),
    )


def _with(plot: Plot, more: Sequence[Line]) -> Plot:
    return Plot(plot.title, plot.x_label, plot.y_label, (*plot.lines, *more), plot.level)


def _ladder_line(compared: Compared, rungs: Sequence[Rung], figure: Callable[[WindowQuality], float]) -> list[Line]:
    levels = compared.report.manifest.levels
    points = tuple(
        (rung.footprint_bytes / 1e6, figure(rung.quality))
        for rung in rungs
        if levels[-1].bits <= rung.bits <= levels[0].bits
    )
    return [Line(LADDER, "ladder", points)] if len(points) > 1 else []


def _points(method: Method, figure: Callable[[WindowQuality], float]) -> Points:
    return tuple((point.footprint_bytes / 1e6, figure(point.quality)) for point in method.curves[0].points)


def _nodes(nodes: Sequence[Node]) -> Points:
    return tuple((size / 1e6, kl) for size, kl in nodes)
