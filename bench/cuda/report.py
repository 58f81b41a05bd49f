"""A run's JSON as a block of the results: `python -m bench.cuda.report JSON MARKDOWN --machine WORDS`."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.row import Row
from bench.scale import FULL
from bench.tables import block, write_blocks

SUITE: Final = "cuda"
_MODEL: Final = "1.1 B, 8 to 4 bits"


def rows(results: Mapping[str, Any]) -> list[Row]:
    """What a run measured, as far as it got."""
    return [row for part in (_right, _returned, _gaps, _speed, _others, _building) for row in part(results)]


def conditions(results: Mapping[str, Any], machine: str) -> dict[str, str]:
    """What a reader needs to know."""
    facts, shape = results["facts"], FULL.shape
    return {
        "machine": machine,
        "software": f"torch {facts['torch']}, exllamav2 {facts['exllamav2']}, "
        f"flash-attn {facts['flash_attn'] or 'none'}",
        "1.1 B model": f"Llama of random weights: {shape.layers} layers, {shape.hidden}/{shape.intermediate}, "
        f"{shape.heads} heads, {shape.kv_heads} KV heads, vocabulary {shape.vocab:,}; levels of 8 and 4 bits",
        "exllamav2 by itself": "its own model class on the same stores, CUDA graphs on, torch's attention without "
        "cuDNN on both sides; for prompts with `no_sdpa`, because its default attention leaves out the causal mask "
        "where flash-attn is missing",
    }


def _right(results: Mapping[str, Any]) -> Iterator[Row]:
    if (found := results.get("logits")) and "worst" in found:
        yield Row(
            f"demo, logits at all {found['positions']} positions, {found['rows']} rows: worst relative error",
            "of the norm",
            Figure.exact(found["worst"]["relative"]),
            Figure.exact(0.005),
            "the bound; reference: the CPU engine in float32",
            less_is_better=True,
        )
        yield _alone(
            "demo, same rows: most likely token as the CPU engine's",
            f"of {found['rows']}",
            found["same_most_likely_token"],
        )
    if (found := results.get("weights")) and "compared" in found:
        yield _alone(
            "demo, modules reconstructed on the card at every position, up and down: bits that differ from the CPU's",
            f"of {found['compared']} modules",
            len(found["wrong"]),
        )
    if (found := results.get("tokens")) and "stops" in found:
        yield _alone(
            f"demo, {found['tokens_each']} tokens at each of {found['stops']} stops of a sweep, as after a fresh load",
            f"of {found['stops']} stops",
            found["equal"],
        )
    for name, error in (results.get("plain") or {}).items():
        if name.startswith("position"):
            yield _alone(f"demo, exllamav2 by itself, {name}: worst relative error", "of the norm", error)


def _returned(results: Mapping[str, Any]) -> Iterator[Row]:
    for found in _parts(results, "memory"):
        what = f"{_MODEL}, {found['steps']} steps by {found['sequence']}{_copies(found)}"
        yield Row(
            f"{what}: device memory given back",
            "MB",
            Figure.of([freed / 1e6 for freed in found["freed_bytes"]]),
            Figure.exact(found["ordered_bytes"] / 1e6),
            "what was ordered",
        )
        for way in ("down", "up"):
            yield Row(
                f"{what}: time per step, {way}",
                "ms",
                Figure.of(found[f"{way}_ms_per_step"]),
                None,
                "nothing: no peer resizes a live model",
            )
        yield _alone(f"{what}: the engine's pause for a step, p99", "ms", found["published_ms"]["p99"])


def _gaps(results: Mapping[str, Any]) -> Iterator[Row]:
    for found in _parts(results, "gaps"):
        what = (
            f"{_MODEL}, sweeps by {found['sequence']}{_copies(found)}, a step ordered per token, "
            f"{found['tokens']} tokens"
        )
        for share in ("p50", "p99"):
            yield Row(
                f"{what}: time between tokens, {share}",
                "ms",
                Figure.exact(found["moving_ms"][share]),
                Figure.exact(found["still_ms"][share]),
                "the same positions, nothing moves",
                less_is_better=True,
            )


def _speed(results: Mapping[str, Any]) -> Iterator[Row]:
    for found in _parts(results, "speed"):
        yield Row(
            f"{_MODEL}, decode, one stream, position {found['position']}",
            "tokens/s",
            Figure.of(found["ours"]),
            Figure.of(found["plain"]),
            "exllamav2 by itself",
        )


def _others(results: Mapping[str, Any]) -> Iterator[Row]:
    for found in _parts(results, "streams"):
        yield _alone(f"{_MODEL}, decode, {found['streams']} at a time, position 0", "tokens/s", found["tokens_per_s"])
    if (prompt := results.get("prefill")) and "ours" in prompt:
        yield Row(
            f"{_MODEL}, a prompt of {prompt['tokens']} tokens: ours in chunks of 256",
            "tokens/s",
            Figure.of(prompt["ours"]),
            Figure.of(prompt["plain"]),
            "exllamav2 by itself, in one chunk",
        )


def _building(results: Mapping[str, Any]) -> Iterator[Row]:
    for name, what in (("measuring", "demo"), ("measuring_large", _MODEL)):
        if "seconds" in (found := results.get(name) or {}):
            yield Row(
                f"{what}, {found['models']} models measured on {found['windows']} windows of text",
                "s",
                Figure.exact(found["seconds"]["cuda"]),
                Figure.exact(found["seconds"]["cpu"]),
                "the same on the host's processor",
                less_is_better=True,
            )
    if "kl_difference" in (found := results.get("measuring") or {}):
        yield _alone("demo, the same: largest relative difference of perplexity", "", found["perplexity_difference"])
        yield _alone("demo, the same: largest difference of KL", "nats", found["kl_difference"])
    made = (results.get("converting") or {}).get("by", {})
    if {"own", "exllamav2"} <= made.keys():
        for end, bits in enumerate((8, 4)):
            for figure, unit in (("kl", "nats"), ("footprint_bytes", "bytes")):
                yield Row(
                    f"docs-llama at {bits} bits by exllamav2's converter: {figure.replace('_bytes', '')}",
                    unit,
                    Figure.exact(made["exllamav2"]["ends"][end][figure]),
                    Figure.exact(made["own"]["ends"][end][figure]),
                    "our quantizer, the same calibration text",
                    less_is_better=True,
                )


def _parts(results: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found = results.get(name)
    return found if isinstance(found, list) else []


def _copies(found: Mapping[str, Any]) -> str:
    return ", host copies kept" if found["keep_copies"] else ", from files"


def _alone(name: str, unit: str, value: float) -> Row:
    return Row(name, unit, Figure.exact(value), None, "")


def main() -> None:
    """Write the block."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.report", description=__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("markdown", type=Path)
    parser.add_argument("--machine", required=True, help="the machine in words")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text())
    text = block(SUITE, conditions(results, arguments.machine), rows(results))
    write_blocks(arguments.markdown, {SUITE: text})


if __name__ == "__main__":
    main()
