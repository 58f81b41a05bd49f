"""Figures of models on the unseen text, in memory and on disk: a killed comparison measures none of them twice."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flexquant.ensemble_builder.journal_lines import JournalLines
from flexquant.ensemble_builder.sequence import Assignment
from flexquant.ensemble_builder.window_quality import WindowQuality


def state_name(state: Assignment) -> str:
    """Return an assignment's name in the scores."""
    return ",".join(map(str, state))


class Scores:
    """Quality and completion choices by model. Use as a context manager.

    Args:
        path: The file; its folder exists.
        fingerprint: What the figures depend on; see `JournalLines`.

    Raises:
        InputError: A line other than the last is damaged.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._lines = JournalLines(path, fingerprint, _parse)
        self.qualities: dict[str, WindowQuality] = {}
        self.choices: dict[str, tuple[bool, ...]] = {}
        for model, found in self._lines.entries:
            if isinstance(found, WindowQuality):
                self.qualities[model] = found
            else:
                self.choices[model] = found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, trace)

    def add_quality(self, model: str, quality: WindowQuality) -> None:
        """Note a model's window figures; they are on disk when this returns."""
        self.qualities[model] = quality
        self._lines.add({"model": model, "surprise": quality.surprise, "kl": quality.kl, "right": quality.right})

    def add_choices(self, model: str, right: tuple[bool, ...]) -> None:
        """Note which completions a model chose right; they are on disk when this returns."""
        self.choices[model] = right
        self._lines.add({"model": model, "choices": "".join("01"[chosen] for chosen in right)})


def _parse(entry: Any) -> tuple[str, WindowQuality | tuple[bool, ...]]:
    model = str(entry["model"])
    if "choices" in entry:
        return model, tuple(chosen == "1" for chosen in entry["choices"])
    surprise, kl, right = (tuple(map(float, entry[name])) for name in ("surprise", "kl", "right"))
    return model, WindowQuality(surprise, kl, right)
