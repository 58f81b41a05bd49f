"""What was measured, as a table for a Markdown file, lines for a terminal, and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flexquant.ensemble_builder.bootstrap import Interval
from flexquant.ensemble_builder.window_quality import WindowQuality


@dataclass(frozen=True, slots=True)
class Measured:
    """One model.

    Args:
        name: "Q4_K_M", "level 4.2".
        stored: What its decoder linears are stored as.
        bits: Stored bits per weight of the decoder linears.
        quality: On the text.
    """

    name: str
    stored: str
    bits: float
    quality: WindowQuality


@dataclass(frozen=True, slots=True)
class Pair:
    """Our quantizer and llama.cpp's at equal bits.

    Args:
        theirs: Without an importance matrix.
        theirs_matrix: The same type with one from the calibration text.
        ours: Calibrated on the same text.
    """

    theirs: Measured
    theirs_matrix: Measured
    ours: Measured


def markdown(unquantized: WindowQuality, pairs: Sequence[Pair]) -> str:
    """A table: of each pair llama.cpp's two models, then ours."""
    lines = [
        "| decoder linears | stored as | bits per weight | perplexity | over unquantized (95 %) | KL (95 %) "
        "| KL, ours / this (95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| unquantized | | | {unquantized.perplexity:.3f} | 1 | 0 | |",
    ]
    for pair in pairs:
        for measured, owner in _models(pair):
            quality = measured.quality
            ratio = "" if measured is pair.ours else _with(*pair.ours.quality.kl_over(quality))
            lines.append(
                f"| {owner}: {measured.name} | {measured.stored} | {measured.bits:.3f} | "
                f"{quality.perplexity:.3f} | {_with(*quality.perplexity_over(unquantized), digits=4)} | "
                f"{_with(quality.mean_kl, quality.kl_interval)} | {ratio} |"
            )
    return "\n".join(lines) + "\n"


def plain(unquantized: WindowQuality, pairs: Sequence[Pair]) -> str:
    """One line per model."""
    lines = [f"unquantized: perplexity {unquantized.perplexity:.3f}"]
    for pair in pairs:
        for measured, owner in _models(pair):
            quality = measured.quality
            lines.append(
                f"{owner}: {measured.name} ({measured.stored}): {measured.bits:.3f} bits, "
                f"perplexity {quality.perplexity:.3f}, over unquantized "
                f"{_with(*quality.perplexity_over(unquantized), digits=4)}, "
                f"KL {_with(quality.mean_kl, quality.kl_interval)}"
                + ("" if measured is pair.ours else f", ours / this {_with(*pair.ours.quality.kl_over(quality))}")
            )
    return "\n".join(lines) + "\n"


def to_json(unquantized: WindowQuality, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Every figure, and those of every window."""
    rows = [{"owner": "unquantized", **_figures(unquantized)}]
    for pair in pairs:
        for measured, owner in _models(pair):
            row: dict[str, Any] = {
                "owner": owner,
                "name": measured.name,
                "stored": measured.stored,
                "bits": measured.bits,
                **_figures(measured.quality),
            }
            ratio, interval = measured.quality.perplexity_over(unquantized)
            row |= {"perplexity_over_unquantized": ratio, "perplexity_over_unquantized_interval": interval}
            if measured is not pair.ours:
                ratio, interval = pair.ours.quality.kl_over(measured.quality)
                row |= {"ours_over_this": ratio, "ours_over_this_interval": interval}
            rows.append(row)
    return rows


def _models(pair: Pair) -> list[tuple[Measured, str]]:
    return [(pair.theirs, "llama.cpp"), (pair.theirs_matrix, "llama.cpp"), (pair.ours, "ours")]


def _figures(quality: WindowQuality) -> dict[str, Any]:
    return {
        "perplexity": quality.perplexity,
        "perplexity_interval": quality.perplexity_interval,
        "kl": quality.mean_kl,
        "kl_interval": quality.kl_interval,
        "windows": {"surprise": quality.surprise, "kl": quality.kl},
    }


def _with(value: float, interval: Interval, digits: int = 3) -> str:
    low, high = interval
    return f"{value:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"
