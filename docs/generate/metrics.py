"""The metrics of `GET /metrics`, in the order in which they are written."""

from docs.generate.table import table
from flexquant.server.counts import Counts
from flexquant.server.exposition import Metric
from flexquant.server.scrape import GAUGES


def text() -> str:
    """A table of all metrics."""
    metrics: list[Metric] = [*Counts().all, *GAUGES]
    return table(
        ["Metric", "Type", "Labels", "What it says"],
        [
            (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
            for metric in metrics
        ],
    )
