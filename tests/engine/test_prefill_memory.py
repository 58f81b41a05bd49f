"""A long prompt takes no more working memory than was declared for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexquant.engine.compute import AUTO, TORCH
from support.ensembles import Shape, random_ensemble

MIB = 1 << 20
TOKENS = 3072
SHAPE = Shape(hidden=256, intermediate=512, layers=2, heads=4, kv_heads=4, vocab=512, context=TOKENS)
TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system counts private memory less exactly")
@pytest.mark.parametrize("kernels", [AUTO, TORCH])
def test_a_long_prompt_stays_within_the_declared_scratch(kernels: str, tmp_path: Path) -> None:
    folder = random_ensemble(tmp_path / "ensemble", SHAPE)
    result = subprocess.run(
        [sys.executable, TESTS / "support" / "prefill_memory.py", folder, kernels, str(TOKENS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["taken"] < found["declared"] + 3 * MIB, "that much for the interpreter and what the heap keeps"
