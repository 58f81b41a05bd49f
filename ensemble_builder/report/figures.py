"""The report's plots: KL and perplexity over footprint, one line per method."""

from collections.abc import Callable

from flexquant.ensemble_builder.report.contents import Report
from flexquant.ensemble_builder.report.findings import Method
from flexquant.ensemble_builder.report.svg_plot import Line, Plot
from flexquant.ensemble_builder.window_quality import WindowQuality


def kl_plot(report: Report) -> Plot:
    """Return the plot of KL over footprint."""
    return Plot(
        title="KL divergence over footprint, one line per order",
        x_label="resident weights, MB",
        y_label=f"KL from {_reference(report)}, nats per token (lower is better)",
        lines=tuple(
            _mean_line(method, method.kl, method.kl_range)
            if len(method.curves) > 1
            else method_line(method, lambda quality: quality.mean_kl)
            for method in report.methods
        ),
    )


def perplexity_plot(report: Report) -> Plot:
    """Return the plot of perplexity over footprint."""
    return Plot(
        title="Perplexity over footprint, one line per order",
        x_label="resident weights, MB",
        y_label="perplexity (lower is better)",
        lines=tuple(
            _mean_line(method, method.perplexity, method.perplexity_range)
            if len(method.curves) > 1
            else method_line(method, lambda quality: quality.perplexity)
            for method in report.methods
        ),
        level=(
            f"{_reference(report)}: {report.measured.reference_perplexity:.5g}",
            report.measured.reference_perplexity,
        )
        if report.measured.reference == "unquantized"
        else None,
    )


def method_line(method: Method, figure: Callable[[WindowQuality], float]) -> Line:
    """Return the line of a method's only curve: a figure at its measured points."""
    points = tuple((point.footprint_bytes / 1e6, figure(point.quality)) for point in method.curves[0].points)
    return Line(method.label, method.name, points)


def _mean_line(method: Method, mean: tuple[float, ...], spread: tuple[tuple[float, float], ...]) -> Line:
    """Several curves have their mean and range at evenly spread footprints."""
    sizes = [size / 1e6 for size in method.footprints]
    band = tuple((size, least, most) for size, (least, most) in zip(sizes, spread, strict=True))
    return Line(method.label, method.name, tuple(zip(sizes, mean, strict=True)), band)


def _reference(report: Report) -> str:
    return "the unquantized model" if report.measured.reference == "unquantized" else "position 0"
