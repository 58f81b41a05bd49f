"""`flexquant-build report`: what an ensemble's sequence is worth, beside other orders of the same stores."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flexquant.engine.ensemble import Ensemble
from flexquant.ensemble_builder.arguments import natural, new_parser, positive
from flexquant.ensemble_builder.atomic_file import cannot_write, write_atomically
from flexquant.ensemble_builder.device import add_device, choose_device
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.report.built import read_built
from flexquant.ensemble_builder.report.collect import Options, report_on
from flexquant.ensemble_builder.report.orders import BASELINES, parse_orders
from flexquant.ensemble_builder.report.page import page
from flexquant.ensemble_builder.workplace import REPORT_NAME

PAGE_NAME: Final = "report.html"
POINTS_BETWEEN: Final = 11
DRAWS: Final = 5

EXAMPLES: Final = """\
examples:
  flexquant-build report my-ensemble --text c.txt --checkpoint models/my-llama
  flexquant-build report my-ensemble --text c.txt --windows 8 --orders greedy,random --seed 1 --out my-report

Writes report.html and report.json. Give a text that neither calibration nor search has seen.
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, measure, and write the report.

    Raises:
        FlexQuantError: See `report_on`, or a file cannot be written.
    """
    parser = new_parser("flexquant-build report", "Write the report of one ensemble.", EXAMPLES)
    parser.add_argument("ensemble", metavar="ENSEMBLE", type=Path, help="folder of an ensemble")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="text to measure on")
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="the unquantized model, to measure KL by")
    parser.add_argument("--windows", metavar="N", type=positive, help="most windows of 1,024 tokens (default: all)")
    parser.add_argument(
        "--orders",
        metavar="LIST",
        default=",".join(BASELINES),
        help=f"orders to compare with (default: {','.join(BASELINES)})",
    )
    parser.add_argument(
        "--points",
        metavar="N",
        type=natural,
        default=POINTS_BETWEEN,
        help=f"positions to measure between the ends of each order (default: {POINTS_BETWEEN})",
    )
    parser.add_argument("--draws", metavar="N", type=positive, default=DRAWS, help=f"random orders (default: {DRAWS})")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="of the random orders (default: 0)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for the report (default: the ensemble's)")
    add_device(parser, "where it is measured")
    args = parser.parse_args(given)
    options = Options(
        text=args.text,
        checkpoint=args.checkpoint,
        windows=args.windows,
        orders=parse_orders(args.orders),
        between=args.points,
        draws=args.draws,
        seed=args.seed,
        device=choose_device(args.device),
    )
    progress = Progress()
    built = read_built(args.ensemble)
    out = args.ensemble if args.out is None else args.out
    ensemble = Ensemble.open(args.ensemble)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    report = report_on(ensemble, built, options, progress)
    record = {**built, "report": report.as_json()}
    write_atomically(out / REPORT_NAME, json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
    write_atomically(out / PAGE_NAME, page(report).encode())
    sys.stdout.write(report.as_table() + "\n")
    progress.note(f"{out / PAGE_NAME}: open it in a browser")
