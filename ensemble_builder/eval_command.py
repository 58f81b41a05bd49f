"""`flexquant-build eval`: the quality of an ensemble's positions on a text."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from flexquant.engine.decoder import Decoder
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import assignment
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.arguments import new_parser, positive
from flexquant.ensemble_builder.device import Kept, add_device, choose_device
from flexquant.ensemble_builder.eqm import hybrid
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure, read_text
from flexquant.ensemble_builder.evaluation_setup import unquantized
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.same_model import check_same_model
from flexquant.ensemble_builder.stores import stores_of

EXAMPLES: Final = """\
examples:
  flexquant-build eval my-ensemble --text c.txt
  flexquant-build eval my-ensemble --text c.txt --positions 0,5,N --checkpoint models/my-llama --json

Give a text that neither calibration nor search has seen.
"""


POINTS_BETWEEN: Final = 5
"""Positions between the ends that are measured if none are asked for."""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, measure, and print the figures.

    Raises:
        FlexQuantError: See `evaluate`.
    """
    parser = new_parser("flexquant-build eval", "Measure the quality of an ensemble's positions.", EXAMPLES)
    parser.add_argument("ensemble", metavar="ENSEMBLE", type=Path, help="folder of an ensemble")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="text to measure on")
    parser.add_argument("--positions", metavar="LIST", help="such as 0,5,N (default: both ends and five between)")
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="the unquantized model, to measure KL by")
    parser.add_argument("--windows", metavar="N", type=positive, help="most windows of 1,024 tokens (default: all)")
    add_device(parser, "where it is measured")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(given)
    device = choose_device(args.device)
    found = evaluate(args.ensemble, args.text, args.positions, args.checkpoint, args.windows, Progress(), device)
    sys.stdout.write((found.as_json() if args.json else found.as_table()) + "\n")


@dataclass(frozen=True, slots=True)
class Row:
    """Quality of one model.

    Args:
        position: Of the ensemble; None for the unquantized model.
        footprint_bytes: Resident bytes of weights; None for the unquantized model.
        perplexity: On the text.
        kl: Mean KL divergence from the unquantized model, in nats per token; None where that is not at hand.
    """

    position: int | None
    footprint_bytes: int | None
    perplexity: float
    kl: float | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Quality of several positions on one text.

    Args:
        ensemble: Name of the model.
        windows: The text as the evaluation protocol saw it.
        rows: The unquantized model first if it was at hand, then positions in ascending order.
    """

    ensemble: str
    windows: Windows
    rows: list[Row]

    def as_json(self) -> str:
        """Return everything as JSON."""
        count, window = self.windows.tokens.shape
        record = {
            "ensemble": self.ensemble,
            "text": self.windows.text.model_dump(),
            "window_tokens": window,
            "windows": count,
            "rows": [asdict(row) for row in self.rows],
        }
        return json.dumps(record, indent=1)

    def as_table(self) -> str:
        """Return the rows as a table for a person."""
        head = f"{'position':>11}  {'footprint':>12}  {'perplexity':>10}  {'KL':>10}"
        return "\n".join([head, *(_line(row) for row in self.rows)])


def evaluate(
    folder: Path,
    text: Path,
    positions: str | None,
    checkpoint: Path | None,
    most_windows: int | None,
    progress: Progress,
    device: str = "cpu",
) -> Evaluated:
    """Measure positions of an ensemble.

    Args:
        folder: The ensemble.
        text: File with the text.
        positions: Such as "0,5,N"; both ends and five between if None.
        checkpoint: The unquantized model, if it is at hand.
        most_windows: Most windows of the text to use; all if None.
        progress: Is told every model.
        device: Where it is measured, by torch's name.

    Raises:
        EnsembleError: The ensemble cannot be used.
        CheckpointError: The checkpoint cannot be read or is of another model.
        UsageError: A position does not exist.
        InputError: The text cannot be used.
    """
    ensemble = Ensemble.open(folder)
    config, manifest = ensemble.config, ensemble.manifest
    sequence = ensemble.sequence()
    last = len(sequence.transitions)
    asked = spread_positions(last) if positions is None else parse_positions(positions, last)
    windows = Windows.of_text(
        read_text(text), text.name, Tokenizer.open(ensemble.tokenizer_folder), config, limit=most_windows
    )
    if checkpoint is not None:
        check_same_model([ensemble.common.folder, checkpoint])
    where = torch.device(device)
    kept = Kept.on(where, len(manifest.levels))
    stores = {store.level: store.weights(kept.weights, where) for store in stores_of(folder, manifest)}

    def position_decoder(position: int) -> Decoder:
        state = assignment(manifest, manifest.default_sequence, position)
        return hybrid(config, manifest.modules, stores, tuple(state[module.name] for module in manifest.modules))

    rows = []
    reference = None
    with progress.stage("evaluating", len(asked) + (checkpoint is not None)) as stage:
        if checkpoint is not None:
            dense = unquantized(checkpoint, config, where)
            reference = Reference(dense, final_hidden(dense, windows))
            perplexity = measure(dense, reference.hidden, windows, None).perplexity
            rows.append(Row(position=None, footprint_bytes=None, perplexity=perplexity, kl=0.0))
            stage.advance()
        for position in asked:
            decoder = position_decoder(position)
            quality = measure(decoder, final_hidden(decoder, windows), windows, reference)
            kl = None if reference is None else quality.kl
            rows.append(Row(position, sequence.footprint_bytes[position], quality.perplexity, kl))
            stage.advance()
    return Evaluated(manifest.name, windows, rows)


def spread_positions(last: int) -> list[int]:
    """Return both ends and up to five positions between, evenly spread."""
    steps = POINTS_BETWEEN + 1
    return sorted({round(last * step / steps) for step in range(steps + 1)})


def parse_positions(text: str, last: int) -> list[int]:
    """Parse positions such as "0,5,N".

    Args:
        text: Comma-separated; N stands for the last one.
        last: The last position.

    Raises:
        UsageError: One of them is no position of the ensemble.
    """
    found = set()
    for part in text.split(","):
        name = part.strip()
        if name.upper() == "N":
            found.add(last)
        elif name.isascii() and name.isdigit() and int(name) <= last:
            found.add(int(name))
        else:
            raise UsageError(
                f"--positions {text}: {name!r} is not a position of this ensemble, which has 0 to N = {last}",
                hint="For example --positions 0,5,N",
            )
    return sorted(found)


def _line(row: Row) -> str:
    name = "unquantized" if row.position is None else str(row.position)
    footprint = "" if row.footprint_bytes is None else f"{row.footprint_bytes / 1e6:.3f} MB"
    kl = "" if row.kl is None else f"{row.kl:.6f}"
    return f"{name:>11}  {footprint:>12}  {row.perplexity:>10.4f}  {kl:>10}"
