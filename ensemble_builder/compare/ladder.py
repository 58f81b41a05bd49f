"""A ladder of whole models every quarter of a bit, made by the builder's own quantizer: the paper's Base-Ex."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.device import Kept
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantize_model import quantize_model
from flexquant.ensemble_builder.report.ladder import rungs
from flexquant.ensemble_builder.store_writer import QUANTIZED_NAME
from flexquant.ensemble_builder.stores import LEVELS_FOLDER, Store, norm_bytes, open_store
from flexquant.ensemble_builder.window_quality import WindowQuality

_SETTINGS: Final = "ladder.json"
_MINUTES: Final = "minutes.json"


@dataclass(frozen=True, slots=True)
class Rung:
    """One whole model.

    Args:
        bits: Its level.
        footprint_bytes: Resident bytes of its weights.
        quality: On the unseen text.
        choices: Completions that it chose right.
    """

    bits: float
    footprint_bytes: int
    quality: WindowQuality
    choices: tuple[bool, ...]


def widths_of(ends: Sequence[tuple[float, float]]) -> list[float]:
    """Return the rungs' widths for several ensembles, falling; each ensemble's own ladder is among them.

    Args:
        ends: Highest and lowest level of each.
    """
    return sorted({bits for up, low in ends for bits in rungs(low, up)}, reverse=True)


def make_ladder(
    checkpoint: Path, widths: Sequence[float], folder: Path, calibration: Windows, group_size: int, progress: Progress
) -> float | None:
    """Write one store per width below `folder`; those that are there already are kept.

    Returns:
        Minutes that making them took; a run that was killed does not count. None if none was noted.

    Raises:
        InputError: The folder has a ladder that was made in another way.
        FlexQuantError: See `quantize_model`.
    """
    settings = {"calibration": calibration.text.model_dump(), "group size": group_size}
    record, noted = folder / _SETTINGS, folder / _MINUTES
    if record.exists() and json.loads(record.read_bytes()) != settings:
        raise InputError(
            f"{folder}: holds whole models that were calibrated on another text or have another group size",
            hint="Choose another --out, or remove that folder to make them anew.",
        )
    write_atomically(record, json.dumps(settings, indent=1).encode())
    minutes = float(json.loads(noted.read_bytes())) if noted.exists() else 0.0
    missing = [bits for bits in widths if not (_store(folder, bits) / QUANTIZED_NAME).exists()]
    if missing:
        started = time.monotonic()
        quantize_model(
            checkpoint,
            missing,
            folder,
            windows=calibration.tokens,
            calibration=calibration.text,
            group_size=group_size,
            progress=progress,
        )
        minutes += (time.monotonic() - started) / 60
        write_atomically(noted, json.dumps(minutes).encode())
    return minutes or None


def open_rung(folder: Path, bits: float) -> Store:
    """Open one whole model of the ladder."""
    return open_store(_store(folder, bits), level_name(bits), bits)


def rung_decoder(store: Store, device: str = "cpu") -> Decoder:
    """Return the whole model, on a device by torch's name."""
    where = torch.device(device)
    return Decoder(store.config, store.weights(Kept.on(where, 1).weights, where))


def rung_footprint(store: Store) -> int:
    """Return the resident bytes of the whole model's weights."""
    return norm_bytes(store) + store.module_bytes


def rung_bytes(folder: Path, bits: float) -> tuple[int, int]:
    """Return a rung's bytes on disk: what is its own, and what every rung has (embedding, norms, tokenizer)."""
    sizes = {path.name: path.stat().st_size for path in _store(folder, bits).iterdir()}
    own = sizes.pop(QUANTIZED_NAME) + sizes.pop("config.json")
    return own, sum(sizes.values())


def _store(folder: Path, bits: float) -> Path:
    return folder / LEVELS_FOLDER / level_name(bits)
