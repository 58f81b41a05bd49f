"""`flexquant-doctor`: what this machine has, and what it lacks; `--dump FILE` saves what a daemon has recorded."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from flexquant.clients.client import DEFAULT_URL, Client
from flexquant.clients.errors import ClientError
from flexquant.engine.errors import FlexQuantError
from flexquant.server.doctor.dump import write_dump
from flexquant.server.doctor.gpu import gpu
from flexquant.server.doctor.kernels import kernels
from flexquant.server.doctor.memory import memory_sources
from flexquant.server.doctor.missing import missing
from flexquant.server.doctor.section import Section
from flexquant.server.doctor.system import system
from flexquant.server.settings import load_settings
from flexquant.server.startup import make_monitor

PROGRAM: Final = "flexquant-doctor"
Connect = Callable[[str | None, str | None], Client]


def connect(url: str | None, api_key: str | None) -> Client:
    """A client for the daemon at `url`."""
    return Client(url, api_key=api_key)


def main(arguments: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        found = sections()
        dump = None if given.dump is None else _dump(given.dump, connect(given.url, given.api_key))
    except (FlexQuantError, ClientError) as error:
        sys.stderr.write(f"{PROGRAM}: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code if isinstance(error, FlexQuantError) else 1
    if given.json:
        facts = {section.name: section.facts for section in found} | {"dump": dump and dump.facts}
        sys.stdout.write(f"{json.dumps(facts, indent=2)}\n")
    else:
        sys.stdout.write("\n".join(section.text() for section in [*found, *([dump] if dump else [])]) + "\n")
    return 0


def sections() -> list[Section]:
    """All groups of checks of this machine, by the settings in the environment.

    Raises:
        UsageError: A setting in the environment cannot be used.
    """
    settings = load_settings(["--model", "demo"])
    found = [memory_sources(make_monitor(settings)), kernels(), system(), gpu()]
    return [*found, missing({section.name: section.facts for section in found})]


def _dump(path: Path, client: Client) -> Section:
    with client:
        lines = write_dump(client.trace(), path)
    said = f"{lines} lines; `flexquant simulate {path}` replays them"
    return Section("dump", ((str(path), said),), {"file": str(path), "lines": lines})


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM, description="Show what this machine supports, and what it costs that something is missing."
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument(
        "--dump", type=Path, metavar="FILE", help="fetch from the daemon what its controller saw and did lately"
    )
    made.add_argument("--url", help=f"where the daemon listens (FLEXQUANT_URL; default: {DEFAULT_URL})")
    made.add_argument("--api-key", help="better given as FLEXQUANT_API_KEY: others can read command lines")
    return made


if __name__ == "__main__":
    sys.exit(main())
