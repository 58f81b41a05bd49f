"""The output folder of a build: who may work in it, and whether a build there is new, to be continued, or done.

`.work/` exists from the first moment of a build to its last. `.work/settings.json` says what is being built, so that
only the same build is continued; afterwards `report.json` says it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flexquant.engine.errors import InputError
from flexquant.engine.manifest import MANIFEST_NAME
from flexquant.ensemble_builder.atomic_file import cannot_write, write_atomically
from flexquant.ensemble_builder.folder_lock import alone

WORK_NAME: Final = ".work"
REPORT_NAME: Final = "report.json"
SEARCHED_NAME: Final = "search.jsonl"
"""The journal of the finished search: every assignment that was measured, in that order."""

Settings = Mapping[str, object]
"""What a build's outcome depends on, by the names that a person knows; JSON values."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """An output folder that this process alone works in.

    Args:
        out: The ensemble's folder.
        finished: The ensemble is there already, built with the same settings.
    """

    out: Path
    finished: bool

    @property
    def work(self) -> Path:
        """Folder for what only the build needs."""
        return self.out / WORK_NAME

    def clear(self) -> None:
        """Remove what only the build needs; a leftover of it is removed by the next run."""
        shutil.rmtree(self.work, ignore_errors=True)


@contextmanager
def workplace(out: Path, settings: Settings) -> Iterator[Workplace]:
    """Take an output folder for a build with `settings`.

    Raises:
        InputError: The folder holds something else, or a build with other settings.
        UsageError: Another process builds there.
        FlexQuantError: The folder cannot be written.
    """
    work = out / WORK_NAME
    settings = json.loads(json.dumps(settings))
    if _is_finished(out, settings):
        place = Workplace(out, finished=True)
        place.clear()  # of a build that was killed after its last file was written
        yield place
        return
    with alone(out, work / "lock", "is building"):
        record = work / "settings.json"
        if record.exists():
            _check_same(out, json.loads(record.read_bytes()), settings, "an unfinished build")
        else:
            write_atomically(record, json.dumps(settings, indent=2).encode())
        yield Workplace(out, finished=False)


def _is_finished(out: Path, settings: Settings) -> bool:
    """Return whether `out` holds this very ensemble; raise if it holds anything that is not ours to continue."""
    try:
        names = {entry.name for entry in out.iterdir()}
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_write(out, error) from error
    if MANIFEST_NAME not in names:
        if names and WORK_NAME not in names:
            raise InputError(
                f"{out}: holds something that is no ensemble ({min(names)})", hint="Choose an empty folder with --out."
            )
        return False
    try:
        built = json.loads((out / REPORT_NAME).read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{out / REPORT_NAME}: does not say what was built: {error}", hint="Remove the folder to build anew."
        ) from error
    _check_same(out, built, settings, "an ensemble")
    return True


def _check_same(out: Path, there: Settings, asked: Settings, what: str) -> None:
    for name in sorted({*there, *asked}):
        if there.get(name) != asked.get(name):
            raise InputError(
                f"{out}: holds {what} with {name} {there.get(name)!r}; asked for is {asked.get(name)!r}",
                hint="Choose another --out, or remove that folder to build anew.",
            )
