"""The builder on the card: the same figures as on the host, sooner; and levels by exllamav2's own converter."""

import io
import time
from pathlib import Path
from typing import Any, Final

from bench.cuda.answers import logits_at_every_position
from bench.cuda.ensemble import DEMO
from bench.worker import ROOT
from flexquant.engine.ensemble import Ensemble
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.eval_command import Evaluated, evaluate
from flexquant.ensemble_builder.progress import Progress

DOCS_LLAMA: Final = ROOT / "tests" / "assets" / "docs-llama"
TEXTS: Final = ROOT / "tests" / "assets" / "text"
UNSEEN: Final = TEXTS / "validation.txt"
DEVICES: Final = ("cpu", "cuda")
QUANTIZERS: Final = ("own", "exllamav2")

PERPLEXITY_TOLERANCE: Final = 1e-5
"""Relative: the same sums in another order, in float32."""
KL_TOLERANCE: Final = 1e-6
"""In nats, the same."""


def measuring(
    folder: Path = DEMO, *, checkpoint: Path = DOCS_LLAMA, positions: str = "0,15,30,45,N", windows: int = 16
) -> dict[str, Any]:
    """Positions of an ensemble and the unquantized model on unseen text, by the host and by the card."""
    found, seconds = _on_both(folder, positions, checkpoint, windows)
    pairs = list(zip(found["cpu"].rows, found["cuda"].rows, strict=True))
    perplexity = max(abs(here.perplexity / there.perplexity - 1) for here, there in pairs)
    kl = max(abs((here.kl or 0) - (there.kl or 0)) for here, there in pairs)
    return {
        "models": len(pairs),
        "windows": windows,
        "perplexity_difference": perplexity,
        "kl_difference": kl,
        "seconds": seconds,
        "ok": perplexity <= PERPLEXITY_TOLERANCE and kl <= KL_TOLERANCE,
    }


def measuring_large(large: Path, *, windows: int = 4) -> dict[str, Any]:
    """Both ends of the ensemble of 1.1 billion weights, by the host and by the card; reading the files is included."""
    _, seconds = _on_both(large, "0,N", None, windows)
    return {"models": 2, "windows": windows, "seconds": seconds}


def converting(folder: Path, *, checkpoint: Path = DOCS_LLAMA, windows: int = 16) -> dict[str, Any]:
    """docs-llama at 8 and 4 bits by our quantizer and by exllamav2's converter, calibrated on the same text.

    Each ensemble is searched by blocks, measured on unseen text at both ends, and run on the card at every position.
    """
    found: dict[str, Any] = {}
    for quantizer in QUANTIZERS:
        out = folder / quantizer
        begun = time.perf_counter()
        made = main(
            [
                *(str(checkpoint), "--levels", "8,4", "--unit", "block", "--preset", "quick", "--out", str(out)),
                *("--quantizer", quantizer, "--device", "cuda"),
                *("--calibration", str(TEXTS / "calibration.txt"), "--search-text", str(TEXTS / "search.txt")),
            ]
        )
        minutes = (time.perf_counter() - begun) / 60
        if made != 0:
            return {"error": f"flexquant-build ended with exit code {made} for --quantizer {quantizer}", "ok": False}
        measured = evaluate(out, UNSEEN, "0,N", checkpoint, windows, _quiet(), "cuda")
        found[quantizer] = {
            "minutes": minutes,
            "ends": [
                {"footprint_bytes": row.footprint_bytes, "perplexity": row.perplexity, "kl": row.kl}
                for row in measured.rows[1:]
            ],
            "logits": logits_at_every_position(Ensemble.open(out)),
        }
    return {"by": found, "ok": all(made["logits"]["ok"] for made in found.values())}


def _on_both(
    folder: Path, positions: str, checkpoint: Path | None, windows: int
) -> tuple[dict[str, Evaluated], dict[str, float]]:
    """Evaluate positions on each device; the first pass on the card, which makes it ready, is not timed."""
    evaluate(folder, UNSEEN, "0", None, 1, _quiet(), "cuda")
    found, seconds = {}, {}
    for device in DEVICES:
        begun = time.perf_counter()
        found[device] = evaluate(folder, UNSEEN, positions, checkpoint, windows, _quiet(), device)
        seconds[device] = time.perf_counter() - begun
    return found, seconds


def _quiet() -> Progress:
    return Progress(io.StringIO())
