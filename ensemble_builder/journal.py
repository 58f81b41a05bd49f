"""The journal of a search: every evaluation on disk at once, so that a killed build repeats none of them."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flexquant.engine.manifest import Quality
from flexquant.ensemble_builder.journal_lines import JournalLines
from flexquant.ensemble_builder.sequence import Assignment


class Journal:
    """Measured qualities, in memory and on disk: each line an assignment and its quality. Use as a context manager.

    Args:
        path: The file; its folder exists.
        fingerprint: What the qualities depend on; see `JournalLines`.

    Raises:
        InputError: A line other than the last is damaged.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._lines = JournalLines(path, fingerprint, _parse)
        self.known: dict[Assignment, Quality] = dict(self._lines.entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, trace)

    def add(self, state: Assignment, quality: Quality) -> None:
        """Note a quality; it is on disk when this returns."""
        self.known[state] = quality
        self._lines.add({"state": state, "kl": quality.kl, "perplexity": quality.perplexity})


def _parse(entry: Any) -> tuple[Assignment, Quality]:
    return tuple(entry["state"]), Quality(kl=entry["kl"], perplexity=entry["perplexity"])
