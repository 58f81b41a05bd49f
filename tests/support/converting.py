"""Levels by a program that stands in for exllamav2's converter; importable, so that processes can make them."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from flexquant.engine.manifest import Text
from flexquant.engine.model_config import read_model_config
from flexquant.ensemble_builder.exllamav2.calibration_rows import CalibrationText, calibration_rows
from flexquant.ensemble_builder.exllamav2.convert_model import convert_model
from flexquant.ensemble_builder.exllamav2.converter import CONVERTER
from flexquant.ensemble_builder.progress import Progress

LEVELS = (4.0, 2.5)
TESTS = Path(__file__).parents[1]


def stand_in(faults: Path | None = None) -> tuple[str, ...]:
    """The command that starts it, as the real one is started; `faults` is its file of moments."""
    return (*CONVERTER[:-1], "support.stand_in_converter", *([] if faults is None else ["--faults", str(faults)]))


def python_path() -> str:
    """PYTHONPATH with which the command finds itself."""
    return os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


def fault(folder: Path, moment: str, kind: str) -> Path:
    """Write a file that makes the converter fail once."""
    path = folder / "faults.json"
    path.write_text(json.dumps({moment: kind}))
    return path


def convert(
    checkpoint: Path,
    out: Path,
    *,
    faults: Path | None = None,
    calibration: CalibrationText | None = None,
    **changes: Any,
) -> Text:
    """Make the levels; see `convert_model` for what can be changed."""
    given: dict[str, Any] = {
        "levels": LEVELS,
        "rows": calibration_rows(calibration, checkpoint, read_model_config(checkpoint)),
        "progress": Progress(io.StringIO(), environment={}),
        "command": stand_in(faults),
    }
    return convert_model(checkpoint, out=out, **(given | changes))


def log_of(out: Path) -> str:
    """All that the converter said."""
    return (out / ".work" / "exllamav2" / "converter.log").read_text()


def commands_of(out: Path) -> list[str]:
    """How the converter was called."""
    return [line for line in log_of(out).splitlines() if line.startswith("$ ")]


def stores_of(out: Path) -> dict[str, bytes]:
    """All files of the levels that say nothing of the calibration."""
    files = (out / "levels").glob("*/*.safetensors")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), faults=Path(sys.argv[3]))
