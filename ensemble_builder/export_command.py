"""`flexquant-build export`: one level of an ensemble as an EXL2 checkpoint."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from flexquant.ensemble_builder.arguments import new_parser
from flexquant.ensemble_builder.export_level import Exported, export_level
from flexquant.ensemble_builder.progress import Progress

EXAMPLES: Final = """\
examples:
  flexquant-build export my-ensemble --level 4.0 --out my-llama-4.0
  flexquant-build export my-nested-ensemble --level 8.0 --text c.txt --out my-llama-8.0

A level that stands alone is copied bit by bit. A nested level is a sum, which the format cannot say: it is rounded
anew, and the text measures what that costs.
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, export, and say what was written.

    Raises:
        FlexQuantError: See `export_level`.
    """
    parser = new_parser("flexquant-build export", "Write a level of an ensemble as an EXL2 checkpoint.", EXAMPLES)
    parser.add_argument("ensemble", metavar="ENSEMBLE", type=Path, help="folder of an ensemble")
    parser.add_argument("--level", metavar="NAME", required=True, help="such as 4.0")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder for the checkpoint")
    parser.add_argument("--text", metavar="FILE", type=Path, help="for a nested level: text to measure on")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(given)
    found = export_level(args.ensemble, args.level, args.out, args.text, Progress())
    sys.stdout.write((json.dumps(asdict(found)) if args.json else _told(found)) + "\n")


def _told(found: Exported) -> str:
    if found.kl is None:
        return f"copied bit by bit: {found.bits_per_weight:.2f} bits per weight"
    return (
        f"rounded anew: {found.bits_per_weight:.2f} bits per weight, KL from the level itself {found.kl:.6f}, "
        f"perplexity {found.perplexity:.4f} (the level itself: {found.level_perplexity:.4f})"
    )
