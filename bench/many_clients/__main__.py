"""`python -m bench.many_clients`, from the repository's root."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.many_clients.crowd import Plan
from bench.many_clients.soak import soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Let many clients ask a daemon, and print what they saw. Returns the exit code: 1 if something was wrong."""
    options = _parser().parse_args(arguments)
    seconds = 60 * options.minutes
    plan = Plan(options.clients, seconds, warm_up_s=0.1 * seconds, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        report, log = soak(Path(folder), plan, *options.flags)
    if options.log is not None:
        options.log.write_text(log)
    sys.stdout.write(report.table() + "\n")
    for detail in report.details:
        sys.stderr.write(f"wrong: {detail}\n")
    return 1 if report.details else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.many_clients", description="Let many clients ask a daemon on the demo at once."
    )
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="at a time (default: 64)")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of the measured part (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the daemon's log")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of the daemon")
    return parser


if __name__ == "__main__":
    sys.exit(main())
