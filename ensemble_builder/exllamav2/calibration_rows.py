"""What exllamav2's converter calibrates on: rows of a text that it is handed, or of the mix that it brings along.

It reads texts from Parquet files, with fastparquet. Of a text that is shorter than the rows it was told to take it
warns, and ends in a traceback. Source: exllamav2 0.3.2, `conversion/tokenize.py`.
"""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flexquant.engine.errors import InputError, UsageError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.atomic_file import cannot_write, write_atomically
from flexquant.ensemble_builder.evaluation import read_text

LONGEST_ROW: Final = 2048
"""Tokens; the converter warns of longer ones."""
MEASURED_ROWS: Final = 16
"""Most rows that the measurement takes; the converter's own default."""
MIX_PIECE: Final = 128
"""Tokens: some rows of the converter's mix are made of whole pieces of so many."""


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A text to calibrate on.

    Args:
        path: UTF-8 file.
        tokens: Tokens of it to take, at most; whole rows, at least one.
    """

    path: Path
    tokens: int


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Rows of tokens for the converter.

    Args:
        length: Tokens of a row.
        count: Rows of the text; None for the converter's own mix, of which it takes all.
        content: The text; empty for the mix.
        text: What is written down about the text; None for the mix, of which only the converter can tell.
    """

    length: int
    count: int | None = None
    content: str = ""
    text: Text | None = None

    def measuring(self, parquet: Path) -> dict[str, str | int]:
        """Return the options of a measurement, for a text that lies in `parquet`."""
        if self.count is None:
            return {"measurement_length": self.length}
        rows = min(self.count, MEASURED_ROWS)
        return {"cal_dataset": str(parquet), "measurement_rows": rows, "measurement_length": self.length}

    def quantizing(self, parquet: Path) -> dict[str, str | int]:
        """Return the options of a conversion, for a text that lies in `parquet`."""
        if self.count is None:
            return {"length": self.length}
        return {"cal_dataset": str(parquet), "dataset_rows": self.count, "length": self.length}

    def write(self, parquet: Path) -> None:
        """Write the text as the converter reads it: one row, whose column "text" holds all of it. Nothing for the mix.

        Raises:
            UsageError: What writes Parquet files is not installed.
            FlexQuantError: The file cannot be written.
        """
        if self.count is None or parquet.exists():
            return
        try:
            # Both are needed by exllamav2, too. Pandas would call fastparquet, but says that it soon will not.
            fastparquet: Any = importlib.import_module("fastparquet")
            pandas: Any = importlib.import_module("pandas")
        except ImportError as error:
            raise UsageError(
                f"a calibration text cannot be handed to exllamav2's converter: {error}",
                hint='Install what it needs with: pip install "flexquant[cuda]".',
            ) from error
        partial = parquet.with_suffix(".written")
        try:
            parquet.parent.mkdir(parents=True, exist_ok=True)
            fastparquet.write(str(partial), pandas.DataFrame({"text": [self.content]}), write_index=False)
            write_atomically(parquet, partial.read_bytes())
            partial.unlink()
        except OSError as error:
            raise cannot_write(parquet, error) from error


def calibration_rows(calibration: CalibrationText | None, checkpoint: Path, config: ModelConfig) -> CalibrationRows:
    """Cut a text into rows, or say what rows of the converter's own mix have to be like.

    Args:
        calibration: The text; the converter's mix if None.
        checkpoint: Folder of the model, for its tokenizer.
        config: The model's.

    Raises:
        InputError: The text cannot be read or does not fill one row.
        CheckpointError: The tokenizer cannot be read.
        UsageError: The model's context is too short for the mix.
    """
    length = min(LONGEST_ROW, config.context)
    if calibration is None:
        if length < MIX_PIECE:
            raise UsageError(
                f"exllamav2's own calibration texts need a context of {MIX_PIECE} tokens; {checkpoint} has {length}",
                hint="Give a text with --calibration.",
            )
        return CalibrationRows(length // MIX_PIECE * MIX_PIECE)
    content = read_text(calibration.path)
    tokens = len(Tokenizer.open(checkpoint).encode(content, bos=False))
    full = tokens // length
    if full == 0:
        raise InputError(
            f"{calibration.path}: {tokens} tokens do not fill one row of {length}, which exllamav2's converter needs",
            hint="Give a longer text; 100 rows are its own default.",
        )
    # The converter counts by a tokenizer of its own, perhaps a little less.
    safe = max(1, full - 1)
    count = min(safe, max(1, calibration.tokens // length))
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return CalibrationRows(
        length, count, content, Text(name=calibration.path.name, sha256=sha256, tokens=count * length)
    )
