"""The models that pages speak of, small enough to be built in seconds."""

import subprocess
import sys
from pathlib import Path

from support.daemon import clean_environment
from support.small_checkpoint import small_checkpoint


def models(folder: Path) -> Path:
    """Write `my-llama`, an unquantized checkpoint, and `my-llama-8.0bpw` and `my-llama-3.0bpw`, EXL2 models of it."""
    small_checkpoint(folder / "my-llama")
    built = [sys.executable, "-m", "flexquant.ensemble_builder", str(folder / "my-llama")]
    built += ["--levels", "8,3", "--preset", "quick", "--calibration-tokens", "1024", "--out", str(folder / "built")]
    subprocess.run(built, check=True, capture_output=True, env=clean_environment())
    for level in ("8.0", "3.0"):
        (folder / f"my-llama-{level}bpw").symlink_to(folder / "built" / "levels" / level)
    return folder
