"""An ensemble of slices that the builder made, run by the engine along each of its sequences."""

import numpy as np
import pytest
import torch

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import assignment
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.eqm import hybrid
from flexquant.ensemble_builder.evaluation import Windows, final_hidden
from flexquant.ensemble_builder.stores import open_store
from support.elastic_models import move
from support.tiny_checkpoint import tiny_checkpoint, write_texts
from support.torch_calls import appended

LEVELS = ("8.0", "3.0")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("built")
    calibration, search = write_texts(folder)
    texts = ["--calibration", str(calibration), "--search-text", str(search)]
    what = ["--levels", "8,3", "--max-step", "2K", "--unit", "projection,block", "--budget-evals", "0"]
    assert main([str(tiny_checkpoint(folder / "tiny")), "--out", str(folder / "out"), *what, *texts]) == 0
    return Ensemble.open(folder / "out")


@pytest.mark.parametrize("sequence", ["projection", "block"])
def test_what_is_served_is_what_was_measured(ensemble: Ensemble, sequence: str) -> None:
    """Logits at every third position against those of the hybrid that the search measures there."""
    manifest = ensemble.manifest
    stores = [open_store(ensemble.folder / "levels" / level, level, float(level)) for level in LEVELS]
    weights = {store.level: store.weights() for store in stores}
    tokens = torch.randint(0, 256, (1, 24), generator=torch.Generator().manual_seed(0))
    windows = Windows(tokens, manifest.evaluation.text)
    model = ElasticModel.load(
        ensemble, kv_pages=4, sequence=sequence, compute=choose_compute("torch", 1), kv_dtype=np.float32
    )
    footprints = manifest.sequences[sequence].footprint_bytes
    for position in [*range(0, len(footprints), 3), len(footprints) - 1]:
        move(model, position)
        state = assignment(manifest, sequence, position)
        decoder = hybrid(ensemble.config, manifest.modules, weights, tuple(state[m.name] for m in manifest.modules))
        expected = decoder.logits(final_hidden(decoder, windows)[0, -1:])
        served = model.new_sequence(24)
        found = model.forward([appended(served, tokens[0])])
        model.release(served)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
    model.close()
