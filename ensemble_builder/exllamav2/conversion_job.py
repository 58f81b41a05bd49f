"""A job of exllamav2's converter: what it is told, and what its working folder says about how far it is.

The converter keeps its job in `job_new.json` of that folder, and goes on with it when it is started again: with the
options that are written there, whatever it is told now. The file is not written atomically. While it says "invalid",
the states beside it are not those that it speaks of. So a job is only continued that can be read, is not "invalid" and
has the very options that are asked for; any other one is removed and begun anew. Source: exllamav2 0.3.2,
`conversion/convert_exl2.py`, `measure.py` and `quantize.py`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flexquant.ensemble_builder.atomic_file import cannot_write

JOB_NAME: Final = "job_new.json"
TOKENS_NAME: Final = "cal_data.safetensors"
"""The tokens that the converter calibrates on."""
FLAGS: Final[Mapping[str, str]] = {
    "in_dir": "-i",
    "cal_dataset": "-c",
    "measurement_rows": "-mr",
    "measurement_length": "-ml",
    "output_measurement": "-om",
    "dataset_rows": "-r",
    "length": "-l",
    "reuse_measurement": "-m",
    "bits": "-b",
    "head_bits": "-hb",
    "compile_full": "-cf",
}
"""The converter's flags for the options of a job, by their names in the job's file."""


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """One run of the converter, over as many processes as it takes.

    Args:
        folder: Its working folder; holds the hidden states of the calibration text.
        options: What the converter is told: see `FLAGS`.
        result: File that is there when the job is done.
    """

    folder: Path
    options: Mapping[str, str | int | float]
    result: Path

    @property
    def arguments(self) -> list[str]:
        """Arguments of the converter: all weights in one file, and progress in a form to be read by programs."""
        given = [part for name, value in self.options.items() for part in (FLAGS[name], str(value))]
        return ["-o", str(self.folder), *given, "-ss", "0", "-so"]

    @property
    def finished(self) -> bool:
        """Whether this very job was done to its end. The converter's exit code does not say that."""
        return self._progress() == "finished" and self.result.exists()

    def record(self) -> dict[str, Any]:
        """Return the content of the job's file; nothing where it cannot be read."""
        try:
            found = json.loads((self.folder / JOB_NAME).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remove_unusable(self) -> None:
        """Remove a working folder that the converter cannot go on in.

        Raises:
            FlexQuantError: It cannot be removed.
        """
        if self._progress() in (None, "finished"):
            self.remove()

    def remove(self) -> None:
        """Remove the working folder.

        Raises:
            FlexQuantError: It cannot be removed.
        """
        try:
            # First: half a folder must not look like a whole one.
            (self.folder / JOB_NAME).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        remove_folder(self.folder)

    def _progress(self) -> str | None:
        """Return the stage that the job is in; None if it is another job or cannot be relied on."""
        found = self.record()
        if "invalid" in found or any(found.get(name) != value for name, value in self.options.items()):
            return None
        progress = found.get("progress")
        return progress if isinstance(progress, str) else None


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there, and everything in it.

    Raises:
        FlexQuantError: It cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(folder, error) from error
