"""`flexquant-pin`: hold a position, follow the memory again, or limit the worst position."""

import argparse
import math
from collections.abc import Sequence
from typing import Final

from flexquant.clients.command import Connect, connect, parser, report, show
from flexquant.clients.sizes import parse_size

PROGRAM: Final = "flexquant-pin"


def main(arguments: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)

    def action() -> None:
        with connect(given.url) as client:
            state = client.set_target(
                position=given.position,
                bytes=given.bytes,
                mode="auto" if given.auto else None,
                worst_position=given.worst,
                ttl_seconds=given.ttl,
            )
        show(state, as_json=given.json)

    return report(PROGRAM, action)


def _parser() -> argparse.ArgumentParser:
    made = parser(PROGRAM, "Hold the model where you want it. Answers when the move has been carried out.")
    wish = made.add_mutually_exclusive_group(required=True)
    wish.add_argument("position", nargs="?", type=int, help="hold this position (0 = best quality)")
    wish.add_argument("--bytes", type=_size, metavar="SIZE", help="hold the best position that fits, such as 2G")
    wish.add_argument("--auto", action="store_true", help="follow the memory again")
    wish.add_argument("--worst", type=int, metavar="POSITION", help="never go beyond this position")
    made.add_argument("--ttl", type=_seconds, metavar="SECONDS", help="how long it holds (default: for good)")
    return made


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return seconds
