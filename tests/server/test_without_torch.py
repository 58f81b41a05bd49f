"""With native kernels the daemon does without torch, which is large and slow to load."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.daemon import clean_environment
from support.ensembles import random_ensemble
from support.native_layers import needs_native

IMPORTS = "import sys, flexquant.server.startup, flexquant.server.http_server\n"
NO_TORCH = """
loaded = sorted(name for name in sys.modules if name.partition('.')[0] == 'torch')
assert not loaded, loaded[:3]
"""
GENERATES = """
from pathlib import Path
from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.native.compute import NativeCompute
from flexquant.engine.sampling import SamplingParams

compute = choose_compute(threads=1)
assert isinstance(compute, NativeCompute)
ensemble = Ensemble.open(Path(sys.argv[1]))
MemoryNeeds.of(ensemble, compute)
model = ElasticModel.load(ensemble, kv_pages=8, compute=compute)
for position in (0, model.max_position, 0):
    moved = model.move_to(position)
    while not moved.done():
        model.safe_point()
    assert moved.result() == position
    for sampling in (SamplingParams(temperature=0), SamplingParams(seed=1, top_k=20, top_p=0.9)):
        prompt = list(range(40, 140))
        with Generation(model, prompt, max_tokens=5, sampling=sampling, ignore_eos=True) as generation:
            while not generation.finished:
                generation.step()
            assert len(generation.generated) == 5
model.weights_of(ensemble.manifest.modules[0].name)
model.resident_bytes()
model.close()
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs this."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=120,
    )


def test_what_the_daemon_imports_does_not_import_torch() -> None:
    ended = run(IMPORTS + NO_TORCH)
    assert ended.returncode == 0, ended.stderr


@needs_native
def test_generating_and_moving_on_native_kernels_does_not_import_torch(tmp_path: Path) -> None:
    ended = run("import sys\n" + GENERATES + NO_TORCH, str(random_ensemble(tmp_path / "tiny")))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("module", ["flexquant.engine.torch_compute", "flexquant.engine.torch_tensors"])
def test_the_check_itself_sees_torch(module: str) -> None:
    ended = run(f"import sys, {module}\n" + NO_TORCH)
    assert ended.returncode == 1
    assert "AssertionError: ['torch'" in ended.stderr
