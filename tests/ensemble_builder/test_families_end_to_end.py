"""A small checkpoint of every family: built with the quick preset, run at every position, served at both ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flexquant.engine.compute import Compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.kv_cache import pages_for
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.model_config import read_model_config
from flexquant.engine.native.compute import NativeCompute
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_compute import TorchCompute
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.cli import main
from support.daemon import running_daemon
from support.dense_backend import DenseBackend
from support.elastic_models import move
from support.native_layers import KERNELS, using
from support.tiny_checkpoint import tiny_checkpoint, write_texts
from support.torch_calls import appended

CONTEXTS = {"mistral": 96, "qwen3": 128, "phi3": 96}
TOKENS = torch.randint(2, 258, (90,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=list(CONTEXTS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / family, family=family)


@pytest.fixture(scope="module")
def ensemble(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("built")
    calibration, search = write_texts(folder)
    texts = ["--calibration", str(calibration), "--search-text", str(search)]
    out = folder / "ensemble"
    assert main([str(checkpoint), "--preset", "quick", "--levels", "8,3", "--out", str(out), *texts]) == 0
    return Ensemble.open(out, verify=True)


@contextmanager
def loaded(ensemble: Ensemble, compute: Compute) -> Iterator[ElasticModel]:
    model = ElasticModel.load(ensemble, kv_pages=8, compute=compute)
    try:
        yield model
    finally:
        model.close()


def logits(model: ElasticModel | DenseBackend, passes: list[int]) -> Tensor:
    """Logits after the last token of each pass, which has so many tokens: f32 [len(passes), vocab]."""
    sequence = model.new_sequence(len(TOKENS))
    try:
        parts = torch.split(TOKENS, passes)
        return torch.from_numpy(np.stack([model.forward([appended(sequence, part)])[0] for part in parts]))
    finally:
        model.release(sequence)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_stores_keep_the_model(family: str, checkpoint: Path, ensemble: Ensemble) -> None:
    config = ensemble.config
    assert config == read_model_config(checkpoint)
    assert (config.architecture, config.context) == (family, CONTEXTS[family])
    names = ensemble.common.names()
    assert ("model.layers.1.self_attn.k_norm.weight" in names) == (family == "qwen3")
    assert "model.layers.1.self_attn.v_proj.q_weight" in names
    assert not any("qkv_proj" in name or "gate_up_proj" in name for name in names)
    numbers = sum(config.norms().values())
    assert ensemble.manifest.fixed_bytes == 2 * numbers
    assert MemoryNeeds.of(ensemble, TorchCompute(1)).fixed == 4 * numbers
    first, last = ensemble.sequence().quality[0], ensemble.sequence().quality[-1]
    assert first.kl < 0.02 < last.kl


def test_the_best_position_is_the_unquantized_model_but_for_rounding(checkpoint: Path, ensemble: Ensemble) -> None:
    weights = DenseWeights(TensorIndex.open(checkpoint), ensemble.config)
    dense = logits(DenseBackend(ensemble.config, weights, kv_pages=pages_for(len(TOKENS))), [60, 29, 1])
    assert dense.std() >= 2
    with loaded(ensemble, TorchCompute(1)) as model:
        assert error(logits(model, [60, 29, 1]), dense) <= 0.05
        move(model, model.max_position)
        assert 0.05 < error(logits(model, [60, 29, 1]), dense) < 1


@pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")
def test_native_kernels_agree_at_every_position_however_rows_are_cut(ensemble: Ensemble) -> None:
    ends = [60, 29, 1]
    with using(), loaded(ensemble, TorchCompute(1)) as reference:
        for number, kernels in enumerate(KERNELS):
            with loaded(ensemble, NativeCompute(kernels, 1 + number % 2)) as model:
                for position in range(0, model.max_position + 1, 1 if number == 0 else model.max_position):
                    move(reference, position)
                    move(model, position)
                    found = logits(model, ends)
                    assert error(found, logits(reference, ends)) <= 0.03
                    assert torch.equal(logits(model, [1] * len(TOKENS))[[59, 88, 89]], found)


@pytest.mark.skipif(not KERNELS, reason="the native kernels were not built")
def test_sequences_decode_together_as_each_alone(ensemble: Ensemble) -> None:
    with using(), loaded(ensemble, NativeCompute(KERNELS[0], 2)) as model:
        sequences = [model.new_sequence(90) for _ in range(3)]
        parts = [TOKENS[10 * number : 40 + 11 * number] for number in range(3)]
        for sequence, part in zip(sequences, parts, strict=True):
            model.forward([appended(sequence, part[:-1])])
        together = model.forward([appended(of, part[-1:]) for of, part in zip(sequences, parts, strict=True)])
        for sequence in sequences:
            model.release(sequence)
        for row, part in zip(together, parts, strict=True):
            alone = model.new_sequence(90)
            assert np.array_equal(model.forward([appended(alone, part)])[0], row)
            model.release(alone)


def test_it_is_served_at_both_ends(family: str, ensemble: Ensemble, tmp_path: Path) -> None:
    request = {
        "model": ensemble.manifest.name,
        "prompt": "Pack my box",
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
    }
    last = len(ensemble.sequence().transitions)
    with running_daemon(tmp_path, model=str(ensemble.folder)) as daemon:
        for position in (0, last):
            daemon.post("/v1/elastic/target", {"position": position}).raise_for_status()
            answer = daemon.post("/v1/completions", request)
            answer.raise_for_status()
            assert answer.headers["x-flexquant-position"] == str(position)
            assert answer.json()["usage"]["completion_tokens"] == 12
        limited = [line for line in daemon.log().splitlines() if "context is limited to 96 tokens" in line]
        assert len(limited) == (0 if family == "qwen3" else 1)
