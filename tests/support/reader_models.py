"""The models and texts that pages speak of, small enough to be built and measured in seconds."""

import subprocess
import sys
from pathlib import Path

from support.daemon import clean_environment
from support.pages import ROOT
from support.small_checkpoint import small_checkpoint

TEXTS = {"calibration": "calibration", "search": "search", "unseen": "validation"}


def write_models(folder: Path) -> None:
    """Write `models` and `texts`.

    `my-llama` is an unquantized checkpoint, `my-llama-8.0bpw` and `my-llama-3.0bpw` are EXL2 models of it.
    """
    (folder / "texts").mkdir()
    for name, asset in TEXTS.items():
        (folder / "texts" / f"{name}.txt").symlink_to(ROOT / "tests" / "assets" / "text" / f"{asset}.txt")
    model = small_checkpoint(folder / "models" / "my-llama")
    command = [sys.executable, "-m", "flexquant.ensemble_builder", str(model), "--out", str(folder / "built")]
    command += ["--levels", "8,3", "--preset", "quick"]
    for flag, name in (("--calibration", "calibration"), ("--search-text", "search")):
        command += [flag, str(folder / "texts" / f"{name}.txt")]
    subprocess.run(command, check=True, capture_output=True, env=clean_environment())
    for level in ("8.0", "3.0"):
        (folder / "models" / f"my-llama-{level}bpw").symlink_to(folder / "built" / "levels" / level)
