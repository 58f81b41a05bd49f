"""Figures of a comparison as a block of a Markdown file: `python -m bench.comparison COMPARE_JSON --markdown FILE`.

The figures come from the compare.json that `flexquant-build compare` wrote, so that none of them is typed by hand.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.conditions import when_and_where
from bench.tables import framed, write_blocks

SUITE = "comparison"
"""Name of the block in the Markdown file, unless told otherwise."""

WHOLE_MODEL = "The whole model at one width"
"""How the finding on Any-Precision without mixed widths begins."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the block, or print it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.comparison", description="A comparison as Markdown.")
    parser.add_argument("record", metavar="COMPARE_JSON", type=Path, help="what `flexquant-build compare` wrote")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="replace the block in this file")
    parser.add_argument("--block", metavar="NAME", default=SUITE, help=f"the block's name (default: {SUITE})")
    options = parser.parse_args(arguments)
    try:
        found = json.loads(options.record.read_bytes())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {options.record}: cannot be read: {error}\n")
        return 3
    text = framed(options.block, {**when_and_where(), **conditions(found)}, tables(found))
    if options.markdown is None:
        sys.stdout.write(text)
    else:
        write_blocks(options.markdown, {options.block: text})
    return 0


def conditions(found: Mapping[str, Any]) -> dict[str, str]:
    """On what the figures were made."""
    measured = found["ensembles"][0]["measured"]
    return {
        "model": found["model"],
        "text": f"{measured['text']['name']}, {measured['windows']} windows of {measured['window_tokens']} tokens; no "
        "build has seen it",
        "intervals": "95 %, bootstrap over the windows, which two methods share",
    }


def tables(found: Mapping[str, Any]) -> str:
    """All tables, and the findings in plain words."""
    ensembles = found["ensembles"]
    parts = [
        "Area under KL of the search's sequence over that of other orders; below 1 the search is better:\n",
        _table(
            ["levels", "area", "over greedy", "over exhaustive", "over random", "over front to back", "back to front"],
            [
                [
                    _levels(one),
                    f"{one['methods'][0]['area_under_kl']:.4g}",
                    *(
                        _ratio(one["sequence_area_over"].get(name))
                        for name in ("greedy", "exhaustive", "random", "front-to-back", "back-to-front")
                    ),
                ]
                for one in ensembles
            ],
        ),
        "\nBeside whole models, one every 0.25 bits, at equal footprint:\n",
        _table(
            [
                "levels",
                "worst perplexity / ladder",
                "at position",
                "positions within 1.005x",
                "ladder's storage / ours",
            ],
            [_beside(one) for one in ensembles],
        ),
        "\nGranularity, storage and work:\n",
        _table(
            ["levels", "steps", "mean step", "largest step", "stores", "search", "exhaustive greedy"],
            [_sizes(one) for one in ensembles],
        ),
        "\n",
        *(f"- {_levels(one)}: {one['findings'][0]}\n" for one in ensembles),
        *(
            f"- {_levels(one)}: {said}\n"
            for one in ensembles
            for said in one["findings"]
            if said.startswith(WHOLE_MODEL)
        ),
        *(f"- {said}\n" for said in found.get("between", [])),
        *(_pruned(one) for one in ensembles if one["pruned"]),
    ]
    return "".join(parts)


def _levels(one: Mapping[str, Any]) -> str:
    method = one["name"].rpartition(" ")[0]
    levels = ", ".join(f"{level['bits']:g}" for level in one["levels"])
    return levels if method == "exl2" else f"{method} {levels}"


def _ratio(over: Mapping[str, Any] | None) -> str:
    if over is None:
        return "not run"
    low, high = over["interval"]
    return f"{over['ratio']:.3f} ({low:.3f} to {high:.3f})"


def _beside(one: Mapping[str, Any]) -> list[str]:
    worst, beside = one["worst_beside_ladder"], one["beside_ladder"]
    if worst is None:
        return [_levels(one), "", "", "", ""]
    good = sum(found["ratio"] <= 1.005 for found in beside)
    return [
        _levels(one),
        f"{worst['ratio']:.3f}",
        str(worst["position"]),
        f"{good} of {len(beside)}",
        f"{one['ladder_bytes'] / one['storage']['once_bytes']:.1f}x",
    ]


def _sizes(one: Mapping[str, Any]) -> list[str]:
    granularity, search, exhaustive = one["granularity"], one["search"], one["exhaustive"]
    return [
        _levels(one),
        str(granularity["steps"]),
        f"{granularity['mean_bytes'] / 1e6:.3f} MB",
        f"{granularity['most_bytes'] / 1e6:.3f} MB",
        f"{one['storage']['once_bytes'] / 1e6:.1f} MB",
        _work(search),
        "not run" if exhaustive is None else _work(exhaustive),
    ]


def _pruned(one: Mapping[str, Any]) -> str:
    whole, *_ = pruned = one["pruned"]
    shares = [f"{allowed['share_of_range']:.0%}" for allowed in whole["allowed"]]
    rows = [
        [
            f"{found['dropped_variants']} of {found['variants']}",
            f"{1 - found['disk_bytes'] / whole['disk_bytes']:.1%}",
            str(found["positions"] - 1),
            f"{found['footprint_range_bytes'][0] / 1e6:.3f} to {found['footprint_range_bytes'][1] / 1e6:.3f} MB",
            *(f"{allowed['kl']:.4g} ({allowed['predicted_kl']:.4g})" for allowed in found["allowed"]),
        ]
        for found in pruned
    ]
    head = ["variants dropped", "less disk", "transitions", "footprints", *(f"KL at {share}" for share in shares)]
    return (
        f"\n{_levels(one)} pruned; KL measured (and predicted) where that share of the whole ensemble's range of "
        f"footprints is allowed:\n{_table(head, rows)}"
    )


def _work(spent: Mapping[str, Any]) -> str:
    minutes = "" if spent["minutes"] is None else f", {spent['minutes']:.1f} min"
    return f"{spent['evaluations']} evaluations{minutes}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
