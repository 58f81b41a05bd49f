"""llama.cpp's quantizer: which types there are, and how it is called."""

import subprocess
from pathlib import Path
from typing import Final

from bench.worker import ROOT
from flexquant.engine.errors import FlexQuantError

TYPES: Final = {8: "Q8_0", 5: "Q5_K_M", 4: "Q4_K_M", 3: "Q3_K_M", 2: "Q2_K"}
"""llama.cpp's usual type of a width."""
K_BLOCK: Final = 256
"""Inputs of a K-quant's block; a matrix with another number of inputs gets a type of blocks of 32 instead."""


def is_fallback(kind: str, in_features: int) -> bool:
    """Whether a matrix cannot have the tensor types that belong to the type `kind`."""
    return "_K" in kind and in_features % K_BLOCK != 0


def quantize(python: str, source: Path, target: Path, kind: str, matrix: Path | None) -> str:
    """Quantize a file. Returns the version of llama-cpp-python.

    Args:
        python: Interpreter that has llama-cpp-python.
        source: Unquantized GGUF file.
        target: Where the quantized one goes.
        kind: One of `TYPES`.
        matrix: The importance matrix, if there is one.

    Raises:
        FlexQuantError: It failed; the message ends with its last lines.
    """
    command = [python, "-m", "bench.quantizers.llama_worker", str(source), str(target), kind]
    done = subprocess.run(
        [*command, *([] if matrix is None else [str(matrix)])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise FlexQuantError(
            f"llama.cpp could not quantize to {kind}:\n{last}",
            hint="`make bench ARGS=--help` installs what the bench needs; --peer-python names another interpreter.",
        )
    return done.stdout.split()[-1]
