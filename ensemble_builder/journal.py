"""The journal of a search: every evaluation on disk at once, so that a killed build repeats none of them.

One JSON object per line. The first names what was measured (a fingerprint of stores, text and protocol), each further
one an assignment and its quality. Appending and fsync make a line either complete or the last one.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from flexquant.engine.errors import InputError
from flexquant.engine.manifest import Quality
from flexquant.ensemble_builder.sequence import Assignment


class Journal:
    """Measured qualities, in memory and on disk. Use as a context manager.

    A journal of another fingerprint is started anew: its figures are about other stores or another text.

    Args:
        path: The file; its folder exists.
        fingerprint: What the qualities depend on.

    Raises:
        InputError: A line other than the last is damaged.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        header = json.dumps({"fingerprint": fingerprint})
        lines, whole = _complete_lines(path)
        if not lines or lines[0] != header:
            lines, whole = [header], 0
        self.known: dict[Assignment, Quality] = {}
        for number, line in enumerate(lines[1:], start=2):
            state, quality = _parse(path, number, line)
            self.known[state] = quality
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

    def add(self, state: Assignment, quality: Quality) -> None:
        """Note a quality; it is on disk when this returns."""
        self.known[state] = quality
        self._append(json.dumps({"state": state, "kl": quality.kl, "perplexity": quality.perplexity}))

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


def _parse(path: Path, number: int, line: str) -> tuple[Assignment, Quality]:
    try:
        entry = json.loads(line)
        return tuple(entry["state"]), Quality(kl=entry["kl"], perplexity=entry["perplexity"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: line {number} is damaged: {line[:80]!r}",
            hint=f"Remove {path} and start again; only the search is repeated.",
        ) from error
