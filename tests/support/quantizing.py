"""Quantizing small checkpoints with settings that suit most tests; importable, so that processes can do it."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexquant.engine.manifest import Text
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantize_model import quantize_model

LEVELS = (8.0, 3.5)


def token_windows(seed: int = 0) -> Tensor:
    """Return four windows of 64 tokens below 96."""
    return torch.randint(0, 96, (4, 64), generator=torch.Generator().manual_seed(seed))


def quantize(checkpoint: Path, out: Path, **changes: Any) -> str:
    """Quantize; return what was shown.

    Args:
        checkpoint: See `quantize_model`.
        out: The same.
        changes: Further arguments of it.
    """
    shown = io.StringIO()
    given: dict[str, Any] = {
        "levels": LEVELS,
        "windows": token_windows(),
        "calibration": Text(name="text", sha256="0" * 64, tokens=256),
        "progress": Progress(shown, environment={}),
    }
    quantize_model(checkpoint, out=out, **(given | changes))
    return shown.getvalue()
