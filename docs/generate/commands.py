"""Every command that the package installs, by its own argument parser.

Which commands there are is read from pyproject.toml. A command's parser is the one that answers `--help`. Commands of a
command are those that its usage lists (`flexquant-build eval ENSEMBLE ...`).
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from io import StringIO
from pathlib import Path
from textwrap import dedent
from typing import IO, Final
from unittest.mock import patch

from docs.generate.table import table
from flexquant.server import settings

PYPROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
SETTINGS_PAGE: Final = "settings.md"


class _HelpAskedError(BaseException):
    """Carries the parser out of a program that would print its help and end; nothing may catch it on the way."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        words: What is typed, such as ("flexquant-build", "eval").
        parser: Of its arguments; None for one that only passes them on.
    """

    words: tuple[str, ...]
    parser: argparse.ArgumentParser | None

    @property
    def name(self) -> str:
        """The words in one."""
        return " ".join(self.words)

    @property
    def flags(self) -> set[str]:
        """All option strings, such as "--json" and "-h"."""
        return (
            set()
            if self.parser is None
            else {flag for action in self.parser._actions for flag in action.option_strings}
        )


@cache
def commands() -> tuple[Command, ...]:
    """All commands, and below each its own ones."""
    scripts: dict[str, str] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
    found: list[Command] = []
    for name, target in sorted(scripts.items()):
        script = EntryPoint(name, target, "console_scripts")
        command = Command((name,), parser_of(script, [name]))
        below = [] if command.parser is None else _listed(command.parser)
        found += [command, *(Command((name, word), parser_of(script, [name, word])) for word in below)]
    return tuple(found)


def parser_of(script: EntryPoint, words: Sequence[str]) -> argparse.ArgumentParser | None:
    """The parser that prints the help of a command.

    Args:
        script: What the command runs.
        words: What is typed.
    """

    def asked(parser: argparse.ArgumentParser, _file: IO[str] | None = None) -> None:
        raise _HelpAskedError(parser)

    with (
        patch.object(argparse.ArgumentParser, "print_help", asked),
        patch.object(sys, "argv", [*words, "--help"]),
        redirect_stdout(StringIO()),
    ):
        try:
            script.load()()
        except _HelpAskedError as found:
            return found.parser
    return None


def _listed(parser: argparse.ArgumentParser) -> list[str]:
    """Commands of a command: the lower-case words that follow its name in its usage."""
    return re.findall(rf"^\s*{re.escape(parser.prog)} ([a-z][a-z-]*)(?=\s|$)", parser.usage or "", re.MULTILINE)


def text() -> str:
    """A list of all commands, then a section for each."""
    found = [command for command in commands() if command.parser is not None]
    head = table(
        ["command", "does"],
        [(f"[`{command.name}`](#{command.name.replace(' ', '-')})", _first_sentence(command)) for command in found],
    )
    return "\n\n".join([head, *(_section(command) for command in found)])


def _first_sentence(command: Command) -> str:
    assert command.parser is not None
    return re.split(r"(?<=\.)\s", " ".join((command.parser.description or "").split()))[0]


def _section(command: Command) -> str:
    parser = command.parser
    assert parser is not None
    parts = [f"## {command.name}", " ".join((parser.description or "").split())]
    if parser.usage:
        parts.append(_verbatim("\n".join(line.strip() for line in parser.usage.splitlines())))
    if parser.prog == settings.PROGRAM:
        parts.append(f"Every setting is a flag: [settings]({SETTINGS_PAGE}) lists them.")
    for title, rows in _tables(parser):
        parts += [f"{title}:"] if title else []
        parts.append(table(["argument", "is"], rows))
    parts += _choices(parser)
    if parser.epilog:
        parts.append(_verbatim(parser.epilog))
    return "\n\n".join(parts)


def _tables(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles and rows: the arguments that stand by themselves without a title, then those of groups."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for group in parser._action_groups:
        title = "" if group.title in ("positional arguments", "options") else group.title or ""
        rows = [_row(parser, action) for action in group._group_actions if _is_told(parser, action)]
        found.setdefault(title, []).extend(rows)
    yield from ((title, rows) for title, rows in found.items() if rows)


def _is_told(parser: argparse.ArgumentParser, action: argparse.Action) -> bool:
    """Not: help itself, what is hidden, and settings, which have a page."""
    if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
        return False
    return parser.prog != settings.PROGRAM or action.dest not in settings.Settings.model_fields


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    told = parser._get_formatter()._expand_help(action) if action.help else ""
    needed = " (needed)" if action.option_strings and action.required else ""
    return f"`{_typed(action)}`", f"{told}{needed}"


def _typed(action: argparse.Action) -> str:
    """An argument as it is typed: `--out DIR`, `MODEL`, `TRACE ...`."""
    metavar = action.metavar
    value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if value is None:
        value = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    more = " ..." if action.nargs in ("+", "*") else ""
    if not action.option_strings:
        return f"{value}{more}"
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {value}{more}"


def _choices(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What excludes each other."""
    for group in parser._mutually_exclusive_groups:
        given = ", ".join(f"`{_typed(action)}`" for action in group._group_actions)
        yield f"{'Exactly' if group.required else 'At most'} one of {given} is given."


def _verbatim(shown: str) -> str:
    return f"```text\n{dedent(shown).strip()}\n```"
