"""What a build took, as Markdown. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.building.estimates import Estimate
from bench.building.watched_build import Stage
from bench.scale import BenchShape


def conditions(shape: BenchShape, levels: str, unit: str) -> dict[str, str]:
    """On what the figures were made."""
    return {
        "model": f"unquantized Llama of random weights: {shape.layers} layers, {shape.hidden}/{shape.intermediate}, "
        f"{shape.heads} heads, {shape.kv_heads} KV heads, vocabulary {shape.vocab:,}",
        "build": f"levels {levels}, unit {unit}, preset quick, one window of search text",
        "memory": "most resident bytes that were seen, pages of mapped files included",
    }


def tables(stages: Sequence[Stage], built: Mapping[str, Any], forward: float, estimated: Sequence[Estimate]) -> str:
    """The build's stages, the search beside its estimate, and estimates for other models.

    Args:
        stages: Of the build.
        built: Its report.json.
        forward: Seconds of an evaluation that reuses nothing.
        estimated: For other models.
    """
    search = built["search"]
    evaluations, minutes = search["evaluations"], search["minutes"]
    expected = evaluations * forward / 60
    lines = ["| stage | minutes | peak memory |", "| --- | --- | --- |"]
    lines += [f"| {stage.name} | {stage.minutes:.1f} | {stage.peak / 2**30:.2f} GiB |" for stage in stages]
    lines += [
        "",
        "| search | |",
        "| --- | --- |",
        f"| evaluations | {evaluations} |",
        f"| an evaluation that reuses nothing | {forward:.1f} s |",
        f"| estimate: evaluations times that | {expected:.1f} min |",
        f"| measured | {minutes:.1f} min, {minutes / expected:.2f} of the estimate |",
        "",
        "A search by projections of two levels with the standard preset, by the same estimate (time in proportion to "
        "weights and tokens):",
        "",
        "| model | transitions | an evaluation | least | default budget |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in estimated:
        cost = one.cost
        lines.append(
            f"| {one.model} | {one.transitions} | {one.forward_seconds:.0f} s | {cost.least_evaluations} evaluations, "
            f"{_time(cost.least_minutes)} | {cost.most_evaluations} evaluations, {_time(cost.most_minutes)} |"
        )
    return "\n".join(lines) + "\n"


def _time(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 180 else f"{minutes / 60:.1f} h"
