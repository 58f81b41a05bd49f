"""`flexquant-build`: the command line. Data goes to stdout, progress and errors to stderr."""

import sys
from collections.abc import Sequence
from typing import Any, Final

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.thread_waiting import sleep_while_waiting

_FROM_THE_START: Final = ("eval", "export", "granularity", "report", "sample-text")
"""Commands that keep nothing of a run that was interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    sleep_while_waiting()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(given)
    except FlexQuantError as error:
        _complain(f"error: {error.message}")
        if error.hint:
            _complain(f"hint: {error.hint}")
        return error.exit_code
    except RuntimeError as error:
        if not _out_of_card_memory(error):
            raise
        _complain("error: the GPU's memory was not enough")
        _complain("hint: End other programs that use it, measure on less text, or use --device cpu.")
        return FlexQuantError.exit_code
    except OSError as error:
        _complain(f"error: {error}")
        return FlexQuantError.exit_code
    except KeyboardInterrupt:
        again = "" if given[:1] and given[0] in _FROM_THE_START else "; the same command continues the build"
        _complain(f"interrupted{again}")
        return 130
    return 0


def _run(given: Sequence[str]) -> None:
    """Run the command that the first argument names. Commands are imported late, because they import torch."""
    match given:
        case ["eval", *rest]:
            from flexquant.ensemble_builder import eval_command

            eval_command.run(rest)
        case ["prune", *rest]:
            from flexquant.ensemble_builder import prune_command

            prune_command.run(rest)
        case ["report", *rest]:
            from flexquant.ensemble_builder.report import command

            command.run(rest)
        case ["compare", *rest]:
            from flexquant.ensemble_builder.compare import command as compare_command

            compare_command.run(rest)
        case ["export", *rest]:
            from flexquant.ensemble_builder import export_command

            export_command.run(rest)
        case ["granularity", *rest]:
            from flexquant.ensemble_builder.report import granularity_command

            granularity_command.run(rest)
        case ["sample-text", *rest]:
            from flexquant.ensemble_builder import sample_command

            sample_command.run(rest)
        case _:
            from flexquant.ensemble_builder import build_command

            build_command.run(given)


def _out_of_card_memory(error: RuntimeError) -> bool:
    """Whether that is what torch raises when a card has no memory left; where nothing imported it, nothing did."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")
