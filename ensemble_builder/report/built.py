"""What a build has recorded in report.json beside the manifest; a report keeps it."""

import json
from collections.abc import Mapping
from pathlib import Path

from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.workplace import REPORT_NAME


def read_built(folder: Path) -> dict[str, object]:
    """Return what the build, or an earlier report, recorded in report.json; nothing if there is no such file.

    Raises:
        InputError: It is damaged, and so must not be replaced.
    """
    path = folder / REPORT_NAME
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="Move it away to report without it.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is not a JSON object", hint="Move it away to report without it.")
    return found


def recorded_minutes(built: Mapping[str, object]) -> float | None:
    """Return the minutes that the search took; None if they were not recorded."""
    search = built.get("search")
    minutes = search.get("minutes") if isinstance(search, dict) else None
    return float(minutes) if isinstance(minutes, int | float) else None
