"""`flexquant-build compare`: methods beside each other over several ensembles of one checkpoint."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from flexquant.engine.errors import UsageError
from flexquant.ensemble_builder.any_precision.widths import check_levels
from flexquant.ensemble_builder.arguments import natural, new_parser, positive, share_of_one
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.compare.options import CompareOptions
from flexquant.ensemble_builder.compare.page import page
from flexquant.ensemble_builder.compare.run import compare
from flexquant.ensemble_builder.device import add_device, choose_device
from flexquant.ensemble_builder.levels import check_nested, parse_levels
from flexquant.ensemble_builder.options import PRESETS, QuantizeOptions, SearchOptions
from flexquant.ensemble_builder.progress import Progress

JSON_NAME: Final = "compare.json"
PAGE_NAME: Final = "compare.html"
POINTS_BETWEEN: Final = 11
DRAWS: Final = 3
EXHAUSTIVE: Final = 2000

EXAMPLES: Final = """\
examples:
  flexquant-build compare models/my-llama --levels 8,2 --levels 4,2 --text c.txt --out my-comparison
  flexquant-build compare models/my-llama --levels 8,2 --nested 8,4,2 --any-precision 6,5,4,3 --text c.txt --out all
  flexquant-build compare models/my-llama --ensemble my-ensemble --text c.txt --out my-comparison --exhaustive 0

Builds the ensembles and a ladder of whole models, one every 0.25 bits between their levels, measures all of them on a
text that neither calibration nor search has seen, and writes compare.html and compare.json. A comparison that was
stopped is continued by the same command. Exhaustive greedy measures every candidate at every step: with 57 transitions
1,654 evaluations, about six times as many as a search.
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, build, measure, and write the comparison.

    Raises:
        FlexQuantError: See `compare`, or a file cannot be written.
    """
    parser = new_parser("flexquant-build compare", "Compare methods over several ensembles of a checkpoint.", EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="folder of the unquantized model")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="unseen text to measure on")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the comparison")
    parser.add_argument(
        "--levels", metavar="BITS", action="append", default=[], help="build an ensemble of these levels; repeatable"
    )
    parser.add_argument(
        "--nested", metavar="BITS", action="append", default=[], help="build a nested ensemble of these; repeatable"
    )
    parser.add_argument(
        "--any-precision",
        metavar="BITS",
        action="append",
        default=[],
        help="build an ensemble of these widths with Any-Precision; repeatable",
    )
    parser.add_argument(
        "--ensemble", metavar="DIR", type=Path, action="append", default=[], help="a ready ensemble; repeatable"
    )
    parser.add_argument("--windows", metavar="N", type=positive, help="most windows of the text (default: all)")
    parser.add_argument("--calibration", metavar="FILE", type=Path, help="text to calibrate on")
    parser.add_argument("--search-text", metavar="FILE", type=Path, help="another text, to search by")
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="standard", help="how much the builds measure (default: standard)"
    )
    parser.add_argument("--search-tokens", metavar="N", type=positive, help="tokens to search by")
    parser.add_argument("--group-size", metavar="N", type=positive, default=32, help="weights per scale (default: 32)")
    parser.add_argument(
        "--exhaustive",
        metavar="N",
        type=natural,
        default=EXHAUSTIVE,
        help=f"most evaluations of exhaustive greedy, per ensemble; 0 for none (default: {EXHAUSTIVE})",
    )
    parser.add_argument(
        "--prune",
        metavar="RATES",
        type=_rates,
        default=(),
        help="prune every ensemble at these shares of its variants, such as 0.1,0.2,0.4, and measure what is left",
    )
    parser.add_argument(
        "--points",
        metavar="N",
        type=natural,
        default=POINTS_BETWEEN,
        help=f"positions to measure of random and front-to-back orders (default: {POINTS_BETWEEN})",
    )
    parser.add_argument("--draws", metavar="N", type=positive, default=DRAWS, help=f"random orders (default: {DRAWS})")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="of all that is drawn (default: 0)")
    add_device(parser, "where models are measured")
    args = parser.parse_args(given)
    preset = PRESETS[args.preset]
    quantize = QuantizeOptions((), args.calibration, preset.calibration_tokens, args.group_size)
    wanted = [replace(quantize, levels=parse_levels(text)) for text in args.levels]
    wanted += [replace(quantize, levels=parse_levels(text), nested=True) for text in args.nested]
    wanted += [replace(quantize, levels=parse_levels(text), method="any-precision") for text in args.any_precision]
    for asked in wanted:
        if asked.nested:
            check_nested(asked.levels)
        elif asked.method == "any-precision":
            check_levels(asked.levels)
    if not (wanted or args.ensemble):
        raise UsageError("neither --levels nor --ensemble was given", hint="For example --levels 8,2 --levels 4,2")
    search = SearchOptions(
        text=args.search_text,
        tokens=args.search_tokens or preset.search_tokens,
        seed=args.seed,
        evaluations=preset.evaluations,
        minutes=None,
        device=choose_device(args.device),
    )
    options = CompareOptions(
        checkpoint=args.checkpoint,
        text=args.text,
        windows=args.windows,
        out=args.out,
        between=args.points,
        draws=args.draws,
        seed=args.seed,
        prune=args.prune,
        exhaustive=args.exhaustive,
        device=search.device,
    )
    progress = Progress()
    found = compare(wanted, args.ensemble, quantize, search, options, progress)
    record = json.dumps(found.as_json(), indent=1, allow_nan=False)
    write_atomically(args.out / JSON_NAME, record.encode() + b"\n")
    write_atomically(args.out / PAGE_NAME, page(found).encode())
    sys.stdout.write(found.as_table() + "\n")
    progress.note(f"{args.out / PAGE_NAME}: open it in a browser")


def _rates(text: str) -> tuple[float, ...]:
    """Parse shares such as "0.1,0.2"."""
    return tuple(sorted({share_of_one(part) for part in text.split(",")}))
