"""`flexquant-status`: what runs, and where the model is."""

from collections.abc import Sequence
from typing import Final

from flexquant.clients.command import Connect, connect, parser, report, show

PROGRAM: Final = "flexquant-status"


def main(arguments: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Run the command; returns the exit code."""
    given = parser(PROGRAM, "Show where the daemon's model is, and why.").parse_args(arguments)

    def action() -> None:
        with connect(given.url) as client:
            show(client.elastic(), as_json=given.json)

    return report(PROGRAM, action)
