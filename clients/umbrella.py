"""`flexquant SUBCOMMAND ...`: runs the console script `flexquant-SUBCOMMAND`."""

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Final

PREFIX: Final = "flexquant-"
USAGE_ERROR: Final = 2


def installed_scripts() -> Iterable[EntryPoint]:
    """All console scripts of this environment."""
    return entry_points(group="console_scripts")


def main(
    arguments: Sequence[str] | None = None, scripts: Callable[[], Iterable[EntryPoint]] = installed_scripts
) -> int:
    """Run the command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {script.name.removeprefix(PREFIX): script for script in scripts() if script.name.startswith(PREFIX)}
    if not given or given[0] in ("-h", "--help"):
        (sys.stdout if given else sys.stderr).write(_usage(commands))
        return 0 if given else USAGE_ERROR
    name, *rest = given
    if name == "--version":
        sys.stdout.write(f"flexquant {version('flexquant')}\n")
        return 0
    if name not in commands:
        sys.stderr.write(f"flexquant: there is no command {name!r}\n{_usage(commands)}")
        return USAGE_ERROR
    script = commands[name]
    sys.argv = [script.name, *rest]
    result = script.load()()
    return 0 if result is None else int(result)


def _usage(commands: Iterable[str]) -> str:
    listed = "\n".join(f"  {name}" for name in sorted(commands))
    return (
        "usage: flexquant [--help] [--version] COMMAND ...\n\n"
        f"commands:\n{listed}\n\n"
        "`flexquant COMMAND --help` says more.\n"
    )
