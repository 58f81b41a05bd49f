"""The report's plots: KL and perplexity over footprint, one line per method."""

from flexquant.ensemble_builder.report.contents import Report
from flexquant.ensemble_builder.report.findings import Method
from flexquant.ensemble_builder.report.svg_plot import Line, Plot


def kl_plot(report: Report) -> Plot:
    """Return the plot of KL over footprint."""
    return Plot(
        title="KL divergence over footprint, one line per order",
        x_label="resident weights, MB",
        y_label=f"KL from {_reference(report)}, nats per token (lower is better)",
        lines=tuple(
            _line(
                method,
                tuple((point.footprint_bytes, point.kl) for point in method.curves[0].points),
                method.kl,
                method.kl_range,
            )
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
            _line(
                method,
                tuple((point.footprint_bytes, point.perplexity) for point in method.curves[0].points),
                method.perplexity,
                method.perplexity_range,
            )
            for method in report.methods
        ),
        level=(
            f"{_reference(report)}: {report.measured.reference_perplexity:.5g}",
            report.measured.reference_perplexity,
        )
        if report.measured.reference == "unquantized"
        else None,
    )


def _line(
    method: Method,
    measured: tuple[tuple[int, float], ...],
    mean: tuple[float, ...],
    spread: tuple[tuple[float, float], ...],
) -> Line:
    """A single curve has its measured points; several have their mean and range at evenly spread footprints."""
    if len(method.curves) == 1:
        return Line(method.label, method.name, tuple((size / 1e6, figure) for size, figure in measured))
    sizes = [size / 1e6 for size in method.footprints]
    band = tuple((size, least, most) for size, (least, most) in zip(sizes, spread, strict=True))
    return Line(method.label, method.name, tuple(zip(sizes, mean, strict=True)), band)


def _reference(report: Report) -> str:
    return "the unquantized model" if report.measured.reference == "unquantized" else "position 0"
