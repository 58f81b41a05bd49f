"""Lines that outlive a kill: JSON objects, one a line, each on disk at once.

The first line names what the others depend on (a fingerprint). Appending and fsync make a line either complete or the
last one, which is then dropped.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from flexquant.engine.errors import InputError

Entry = TypeVar("Entry")


class JournalLines(Generic[Entry]):
    """The lines of a journal. Use as a context manager.

    A journal of another fingerprint is started anew: its figures are about something else.

    Args:
        path: The file; its folder exists.
        fingerprint: What the lines depend on.
        parse: From a line's JSON values; may raise ValueError, KeyError or TypeError.

    Raises:
        InputError: A line other than the last is damaged.
    """

    def __init__(self, path: Path, fingerprint: str, parse: Callable[[Any], Entry]) -> None:
        header = json.dumps({"fingerprint": fingerprint})
        lines, whole = _complete_lines(path)
        if not lines or lines[0] != header:
            lines, whole = [header], 0
        self.entries = [_parsed(path, number, line, parse) for number, line in enumerate(lines[1:], start=2)]
        self._file = path.open("r+b" if whole else "wb")
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._append(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, entry: object) -> None:
        """Append JSON values; they are on disk when this returns."""
        self._append(json.dumps(entry))

    def _append(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _complete_lines(path: Path) -> tuple[list[str], int]:
    """Return the complete lines of the file and how many bytes they take; none if there is no file."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    whole = found.rfind(b"\n") + 1
    return found[:whole].decode(errors="replace").splitlines(), whole


def _parsed(path: Path, number: int, line: str, parse: Callable[[Any], Entry]) -> Entry:
    try:
        return parse(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: line {number} is damaged: {line[:80]!r}",
            hint=f"Remove {path} and start again; only what it holds is repeated.",
        ) from error
