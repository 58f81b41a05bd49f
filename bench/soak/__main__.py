"""`python -m bench.soak`, from the repository's root."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.conditions import when_and_where
from bench.machine.small_machine import MIB
from bench.soak.checks import table
from bench.soak.model import machine, model
from bench.soak.run import Plan, soak
from bench.soak.verdict import checks, what_went_on
from bench.tables import framed, write_blocks
from bench.worker import ROOT

_BASE: Final = 256 * MIB
"""What a daemon takes beyond the weights, KV pages included, and the hogs before they take anything."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak a daemon and print the tables. Returns the exit code: 1 if a check failed."""
    options = _parser().parse_args(arguments)
    if sys.platform != "linux":
        sys.stderr.write("error: the soak looks into /proc, and runs on Linux only\n")
        return 2
    ensemble = model(options.model, options.models)
    plan = Plan(
        ensemble,
        machine(ensemble, _BASE),
        seconds=60 * options.minutes,
        clients=options.clients,
        seed=options.seed,
        flags=options.flags,
    )
    conditions = when_and_where() | {
        "model": ensemble.name,
        "simulated machine": plan.machine.told,
        "asked for": f"{options.minutes:g} minutes, seed {plan.seed}",
        "load average": f"{os.getloadavg()[0]:.1f} over the minute before",
    }
    seen, log = soak(plan)
    if options.log is not None:
        options.log.write_text(log)
    found = checks(seen)
    text = f"{what_went_on(seen)}\n\n{table(found)}\n"
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in conditions.items()) + f"\n{text}")
    if options.markdown is not None:
        write_blocks(options.markdown, {"soak": framed("soak", conditions, text)})
    for detail in [*seen.load.details, *seen.wrong_tokens, *seen.faults]:
        sys.stderr.write(f"wrong: {detail}\n")
    return 1 if any(check.held is False for check in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Let a daemon answer many clients while hogs take its memory and users pin and limit it.",
    )
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="of the measured part (default: 60)")
    parser.add_argument(
        "--model", metavar="NAME", help="'demo' or an ensemble folder (default: 200 MB of random weights)"
    )
    parser.add_argument("--clients", type=int, default=6, metavar="N", help="at a time (default: 6)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the daemon's log")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="replace the soak's block in this file")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "build" / "bench", metavar="DIR", help="keeps the generated model"
    )
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of the daemon")
    return parser


if __name__ == "__main__":
    sys.exit(main())
