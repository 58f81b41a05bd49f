"""`python -m bench.building`, from the repository's root: quantizes and searches a model of full size.

The model has random weights: what it says means nothing, but it takes the time and memory that a trained one takes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from bench import calibration
from bench.building.watched_build import BuildError, watched_build
from bench.conditions import when_and_where
from bench.scale import FULL, QUICK, Scale
from bench.tables import framed, markdown, write_blocks
from flexquant.engine.thread_waiting import sleep_while_waiting

SUITE: Final = "building"
"""Name of the block in the Markdown file."""
CONTEXT: Final = 1024
"""Of the checkpoint; the search text has one window of it."""
ENSEMBLE: Final = "ensemble"
TEXTS: Final = Path(__file__).parents[2] / "tests" / "assets" / "text"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, measure, report. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.building", description=__doc__.split("\n\n")[1])
    parser.add_argument("--work", metavar="DIR", type=Path, required=True, help="keeps checkpoint and ensemble")
    parser.add_argument("--levels", metavar="BITS", default="8,4", help="of the ensemble (default: 8,4)")
    parser.add_argument("--unit", metavar="UNIT", default="block", help="what the search lowers (default: block)")
    parser.add_argument("--quick", action="store_true", help="a tiny model: tests the bench itself")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="replace the block in this file")
    options = parser.parse_args(arguments)
    if (options.work / ENSEMBLE).exists():
        sys.stderr.write(f"error: {options.work / ENSEMBLE} is there already; only a whole build can be timed\n")
        sys.stderr.write("hint: Remove it, or choose another --work.\n")
        return 2
    sleep_while_waiting()
    try:
        text = _run(QUICK if options.quick else FULL, options)
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if options.markdown is None:
        sys.stdout.write(text)
    else:
        write_blocks(options.markdown, {SUITE: text})
    return 0


def _run(scale: Scale, options: argparse.Namespace) -> str:
    """Torch is imported late: not before `sleep_while_waiting`."""
    from bench.building import report
    from bench.building.checkpoint import write_checkpoint
    from bench.building.estimates import estimates, forward_seconds
    from flexquant.engine.model_config import read_model_config
    from flexquant.engine.tokenizer import Tokenizer
    from flexquant.ensemble_builder.evaluation import Windows, read_text
    from flexquant.ensemble_builder.report.built import read_built

    threads = psutil.cpu_count(logical=False) or 1
    looks = [calibration.Calibration.measure(scale, threads)]
    checkpoint, ensemble = options.work / f"dense-{scale.shape.name}", options.work / ENSEMBLE
    write_checkpoint(checkpoint, scale.shape, CONTEXT)
    search_text = TEXTS / "search.txt"
    stages = watched_build(
        [
            *(str(checkpoint), "--levels", options.levels, "--unit", options.unit, "--out", str(ensemble)),
            *("--preset", "quick", "--search-tokens", str(CONTEXT)),
            *("--calibration", str(TEXTS / "calibration.txt"), "--search-text", str(search_text)),
        ]
    )
    windows = Windows.of_text(
        read_text(search_text),
        search_text.name,
        Tokenizer.open(checkpoint),
        read_model_config(checkpoint),
        limit=1,
    )
    best = options.levels.split(",")[0]
    seconds = forward_seconds(ensemble / "levels" / f"{float(best)}", windows)
    looks.append(calibration.Calibration.measure(scale, threads))
    rows = calibration.rows(looks, threads)
    told = report.conditions(scale.shape, options.levels, options.unit)
    text = report.tables(stages, read_built(ensemble), seconds, estimates(scale.shape, seconds, windows.tokens.numel()))
    return framed(SUITE, {**when_and_where(), **told}, f"{text}\n{markdown(rows)}")


if __name__ == "__main__":
    sys.exit(main())
