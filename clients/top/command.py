"""`flexquant-top`: a live view of where the model is, and why.

A picture on a terminal, a line for each change elsewhere.
"""

import argparse
import math
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from flexquant.clients.client import Client
from flexquant.clients.command import Connect, connect, parser, report
from flexquant.clients.top.lines import Lines
from flexquant.clients.top.terminal import is_terminal
from flexquant.clients.top.watch import Watch

PROGRAM: Final = "flexquant-top"
LEAST_INTERVAL_S: Final = 0.1


def main(arguments: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)

    def action() -> None:
        with connect(given.url) as client:
            if given.once:
                _once(client, as_json=given.json)
            elif given.json or not is_terminal():
                _print_lines(client, given.interval, as_json=given.json)
            else:
                # Imported late: it imports rich.
                from flexquant.clients.top.screen import run

                run(client, lambda changed: Watch(client, given.interval, changed))

    return report(PROGRAM, action)


def _once(client: Client, *, as_json: bool) -> None:
    watch = Watch(client, 0.0, lambda: None)
    watch.read()
    now = time.time()
    if as_json:
        _print(Lines().as_json(watch.view, now))
        return
    # Imported late: they import rich.
    from rich.console import Console

    from flexquant.clients.top.frame import frame
    from flexquant.clients.top.glyphs import glyphs_for

    console = Console()
    for line in frame(watch.view, *console.size, now=now, glyphs=glyphs_for(console.encoding), keys=False):
        console.print(line)


def _print_lines(client: Client, interval: float, *, as_json: bool) -> None:
    changed = threading.Event()
    watch = Watch(client, interval, changed.set)
    watch.read()
    lines = Lines()
    say = lines.as_json if as_json else lines.plain
    with watch.running():
        while True:
            changed.clear()
            _print(say(watch.view, time.time()))
            changed.wait()


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    made = parser(
        PROGRAM,
        "Watch the daemon's model: footprint, position, quality, memory, load, decisions. A picture on a terminal "
        "(q quits, p pins a position, a follows the memory), elsewhere a line for each change; with --json an object "
        "for each reading.",
    )
    made.add_argument("--once", action="store_true", help="show the present state and end")
    made.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="between two readings (default: 1)"
    )
    return made


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_INTERVAL_S <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, at least {LEAST_INTERVAL_S}")
    return seconds
