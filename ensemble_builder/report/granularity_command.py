"""`flexquant-build granularity`: how finely an ensemble of a model would give memory back, from its config alone."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final, get_args

from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import Method
from flexquant.engine.model_config import read_model_config
from flexquant.ensemble_builder.any_precision.widths import check_levels
from flexquant.ensemble_builder.arguments import new_parser, size
from flexquant.ensemble_builder.levels import parse_levels
from flexquant.ensemble_builder.options import GROUP_SIZE
from flexquant.ensemble_builder.report.config_granularity import (
    any_precision_granularity,
    granularity_of,
    ladder_granularity,
    whole_levels_granularity,
)
from flexquant.ensemble_builder.report.sizes import Granularity

EXAMPLES: Final = """\
examples:
  flexquant-build granularity models/my-llama --levels 8,4
  flexquant-build granularity models/my-llama/config.json --levels 8,4,2.5 --max-step 8M --json
  flexquant-build granularity models/my-llama --method any-precision --levels 8,7,6,5,4,3

Only config.json is read. The ladder is of whole models, one every 0.25 bits, between the first and the last level; of
Any-Precision it is the whole model at each of the levels.
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, compute, and print the figures.

    Raises:
        CheckpointError: The config cannot be read.
        UsageError: The levels make no ensemble.
    """
    parser = new_parser("flexquant-build granularity", "Compute the steps that an ensemble would have.", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a checkpoint, or its config.json")
    parser.add_argument("--levels", metavar="BITS", default="8,3", help="bits of each level, falling (default: 8,3)")
    parser.add_argument(
        "--method", choices=get_args(Method), default="exl2", help="how weights are quantized (default: exl2)"
    )
    parser.add_argument("--max-step", metavar="BYTES", type=size, help="cut into slices of at most so much, such as 8M")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(given)
    if args.model.is_file() and args.model.name != "config.json":
        raise UsageError(f"{args.model}: is not named config.json", hint="Give a checkpoint's folder or config.json.")
    config = read_model_config(args.model.parent if args.model.is_file() else args.model)
    levels = parse_levels(args.levels)
    if args.method == "any-precision":
        check_levels(levels)
        rows = {"whole models, one per level": whole_levels_granularity(config, levels)}
        of = partial(any_precision_granularity, config, levels)
    else:
        rows = {"whole models, every 0.25 bits": ladder_granularity(config, levels, GROUP_SIZE)}
        of = partial(granularity_of, config, levels, GROUP_SIZE)
    rows["projections"] = of()
    if args.max_step is not None:
        rows[f"slices of at most {args.max_step} bytes"] = of(max_step=args.max_step)
    sys.stdout.write((_json(rows) if args.json else _table(rows)) + "\n")


def _json(rows: dict[str, Granularity]) -> str:
    ladder = next(iter(rows.values()))
    finer = {
        name: {
            **asdict(row),
            "finer_in_the_mean": round(ladder.mean_bytes / row.mean_bytes, 2),
            "finer_at_most": round(ladder.most_bytes / row.most_bytes, 2),
        }
        for name, row in rows.items()
    }
    return json.dumps(finer, indent=1)


def _table(rows: dict[str, Granularity]) -> str:
    ladder = next(iter(rows.values()))
    lines = [f"{'steps of':<32}  {'steps':>6}  {'mean':>12}  {'largest':>12}  {'finer: mean':>11}  {'largest':>8}"]
    for name, row in rows.items():
        lines.append(
            f"{name:<32}  {row.steps:>6}  {row.mean_bytes / 1e6:>9.3f} MB  {row.most_bytes / 1e6:>9.3f} MB  "
            f"{ladder.mean_bytes / row.mean_bytes:>10.1f}x  {ladder.most_bytes / row.most_bytes:>7.1f}x"
        )
    return "\n".join(lines)
