"""`python -m bench [SUITE ...]`, from the repository's root."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bench import calibration
from bench.calibration import Calibration
from bench.conditions import conditions
from bench.row import Row
from bench.scale import FULL, QUICK
from bench.server_process import ServerError
from bench.session import Session
from bench.suites import SUITES
from bench.tables import block, plain, write_blocks
from bench.worker import ROOT, WorkerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run suites and report their rows. Returns the exit code."""
    options = _parser().parse_args(arguments)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        sys.stderr.write(f"error: no such suite: {', '.join(sorted(unknown))}\nhint: There are {', '.join(SUITES)}.\n")
        return 2
    session = Session(
        scale=QUICK if options.quick else FULL,
        threads=options.threads,
        models=options.models.resolve(),
        peer_python=None if options.no_peer else options.peer_python,
    )
    session.models.mkdir(parents=True, exist_ok=True)
    try:
        _run(session, [name for name in SUITES if name in options.suites or not options.suites], options)
    except (WorkerError, ServerError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(session: Session, names: Sequence[str], options: argparse.Namespace) -> None:
    """Calibrate, run a suite, calibrate, and so on: every suite stands between two looks at the machine."""
    where = conditions(session)
    results: dict[str, list[Row]] = {}
    if not options.json:
        sys.stdout.write(_told(where))
    looks = [Calibration.measure(session.scale, session.threads)]
    for name in names:
        begun = time.perf_counter()
        results[name] = SUITES[name](session)
        looks.append(Calibration.measure(session.scale, session.threads))
        sys.stderr.write(f"{name}: {time.perf_counter() - begun:.0f} s\n")
        around = calibration.rows(looks[-2:], session.threads)
        if options.markdown is not None:  # at once: a later suite may fail
            write_blocks(options.markdown, {name: block(name, where | session.notes, [*results[name], *around])})
        if not options.json:
            sys.stdout.write(f"# {name}\n{plain([*results[name], *around])}\n")
            sys.stdout.flush()
    if not options.json:
        sys.stdout.write(_told(session.notes))
    else:
        rows = [{"suite": name, **row.to_json()} for name, found in results.items() for row in found]
        machine = [{"suite": "calibration", **row.to_json()} for row in calibration.rows(looks, session.threads)]
        json.dump({"conditions": where | session.notes, "rows": rows + machine}, sys.stdout, indent=1)
        sys.stdout.write("\n")


def _told(facts: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in facts.items()) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure FlexQuant beside llama.cpp, taking turns in one run."
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all without")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few rounds: tests the bench itself")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="replace the suites' blocks in this file")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "build" / "bench", metavar="DIR", help="keeps the generated models"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter with llama-cpp-python and gguf"
    )
    parser.add_argument("--no-peer", action="store_true", help="leave llama.cpp out")
    parser.add_argument("--threads", type=int, default=_cores(), help="of both sides (default: physical cores)")
    return parser


def _cores() -> int:
    """Physical cores: a second thread on one core has no arithmetic of its own."""
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
