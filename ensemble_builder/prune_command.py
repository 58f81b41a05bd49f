"""`flexquant-build prune`: an ensemble that takes less disk."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from flexquant.engine.errors import UsageError
from flexquant.ensemble_builder.arguments import minutes, natural, new_parser, positive, share_of_one, size
from flexquant.ensemble_builder.device import add_device, choose_device
from flexquant.ensemble_builder.options import PRESETS, SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.pruned_ensemble import Outcome, PruneOptions, prune_ensemble

EXAMPLES: Final = """\
examples:
  flexquant-build prune my-ensemble --limit 5G --out my-ensemble-5G --checkpoint models/my-llama
  flexquant-build prune my-ensemble --rate 0.4 --out pruned --search-text b.txt --keep best

The ensemble itself stays as it is. A build that was stopped is continued by the same command.
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, prune, and print what it took.

    Raises:
        FlexQuantError: See `prune_ensemble`.
    """
    parser = new_parser(
        "flexquant-build prune", "Drop the variants of modules that are missed least from an ensemble's disk.", EXAMPLES
    )
    parser.add_argument("ensemble", metavar="ENSEMBLE", type=Path, help="folder of an ensemble")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the pruned ensemble's folder")
    parser.add_argument("--limit", metavar="BYTES", type=size, help="most bytes on disk, such as 5G or 800M")
    parser.add_argument(
        "--rate", metavar="R", type=share_of_one, help="share of all variants of layers to drop, such as 0.4"
    )
    parser.add_argument(
        "--keep",
        choices=["smallest", "best"],
        default="smallest",
        help="the end of the footprint's range that stays (default: smallest: as much memory can be given back)",
    )
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="the unquantized model, to measure KL by")
    parser.add_argument("--search-text", metavar="FILE", type=Path, help="text to search by (default: sampled)")
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="standard", help="how much is measured (default: standard)"
    )
    parser.add_argument("--search-tokens", metavar="N", type=positive, help="tokens to search by")
    parser.add_argument("--seed", metavar="N", type=natural, default=0, help="of a text that is sampled (default: 0)")
    parser.add_argument("--budget-evals", metavar="N", type=natural, help="most evaluations for the search")
    parser.add_argument("--budget-minutes", metavar="M", type=minutes, help="most minutes for the search")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(given)
    if args.limit is None and args.rate is None:
        raise UsageError("--limit or --rate is needed", hint="For example --limit 5G")
    preset = PRESETS[args.preset]
    search = SearchOptions(
        text=args.search_text,
        tokens=args.search_tokens or preset.search_tokens,
        seed=args.seed,
        evaluations=preset.evaluations if args.budget_evals is None else args.budget_evals,
        minutes=args.budget_minutes,
        device=choose_device(args.device),
    )
    options = PruneOptions(rate=args.rate or 0.0, limit_bytes=args.limit, keep=args.keep)
    found = prune_ensemble(args.ensemble, args.out, args.checkpoint, options, search, Progress())
    sys.stdout.write((json.dumps(as_record(found), indent=1) if args.json else as_table(found)) + "\n")


def as_record(found: Outcome) -> dict[str, Any]:
    """Return what pruning did as JSON values."""
    pruning = found.after.pruning
    before, after = (manifest.sequences[manifest.default_sequence] for manifest in (found.before, found.after))
    return {
        "dropped_variants": 0 if pruning is None else pruning.dropped_variants,
        "variants": 0 if pruning is None else pruning.variants,
        "disk_bytes": [found.disk_before, found.disk_after],
        "largest_footprint_bytes": [before.footprint_bytes[0], after.footprint_bytes[0]],
        "smallest_footprint_bytes": [before.footprint_bytes[-1], after.footprint_bytes[-1]],
        "positions": [len(before.footprint_bytes), len(after.footprint_bytes)],
        "predicted_mean_kl": [found.predicted_before, found.predicted_after],
        "measured_mean_kl": [found.measured_before, found.measured_after],
        "measured_on_the_same_text": found.same_text,
    }


def as_table(found: Outcome) -> str:
    """Return what pruning did as a table for a person."""
    record = as_record(found)
    lines = [f"{'':<38}{'before':>14}{'after':>14}"]
    for name, (title, told) in _ROWS.items():
        before, after = record[name]
        lines.append(f"{title:<38}{told(before):>14}{told(after):>14}")
    share = 1 - found.disk_after / found.disk_before
    lines.append(
        f"{record['dropped_variants']} of {record['variants']} variants of layers dropped, {share:.1%} of the disk."
    )
    if not found.same_text:
        lines.append("The two measured losses are of different texts or references, and cannot be compared.")
    return "\n".join(lines)


def _mega(size: float) -> str:
    return f"{size / 1e6:.3f} MB"


def _loss(kl: float) -> str:
    return f"{kl:.6f}"


_ROWS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "disk_bytes": ("on disk", _mega),
    "largest_footprint_bytes": ("largest footprint", _mega),
    "smallest_footprint_bytes": ("smallest footprint", _mega),
    "positions": ("positions", str),
    "predicted_mean_kl": ("mean KL over footprint, predicted", _loss),
    "measured_mean_kl": ("mean KL over footprint, measured", _loss),
}
