"""What went wrong in exllamav2's converter, found in what it said.

It marks its own errors with "##" and "**" and then ends with exit code 0 or 1; others end it with a traceback.
"""

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flexquant.engine.errors import FlexQuantError

AGAIN: Final = "The same command continues the work."
MOST_MARKED: Final = 2
"""Of the converter's own error lines the last ones are told."""

_MARKED: Final = re.compile(r"\s*(?:##|\*\*) (.*)")
_EXCEPTION: Final = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)(?::.*)?")


def conversion_failure(doing: str, lines: Sequence[str], exit_code: int, log: Path) -> FlexQuantError:
    """Return the error for a run of the converter that did not finish its job.

    Args:
        doing: What it was at, such as "measuring by exllamav2".
        lines: The last lines of its output.
        exit_code: Of the process; the negative number of a signal that ended it.
        log: File with its whole output.
    """
    marked = [found[1].strip() for line in lines if (found := _MARKED.match(line))]
    raised = [line.strip() for line in lines if _EXCEPTION.fullmatch(line.strip())]
    told = [*marked[-MOST_MARKED:], *raised[-1:]]
    if exit_code < 0:
        told.append(f"it was ended by {_signal_name(-exit_code)}")
    if not told:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        told = [f"it ended with exit code {exit_code} and its job undone; the last it said was: {last}"]
    return FlexQuantError(
        f"{doing}: exllamav2's converter failed: {'; '.join(told)} (all that it said is in {log})",
        hint=_hint(" ".join(told), exit_code),
    )


def _hint(told: str, exit_code: int) -> str:
    if "OutOfMemoryError" in told:
        return (
            "The card's memory is too small for this model beside what else is on it. End other programs that use the "
            "card; the same command continues the work."
        )
    if "ModuleNotFoundError" in told or "ImportError" in told:
        return 'Install what it needs with: pip install "flexquant[cuda]". `flexquant doctor` says what is missing.'
    if "Not enough sample data" in told:
        return "Give a longer text with --calibration."
    if exit_code == -signal.SIGKILL:
        return f"The system may have been short of memory. {AGAIN}"
    return AGAIN


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
