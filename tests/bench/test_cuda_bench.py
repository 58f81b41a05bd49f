"""The GPU bench's own logic, on a fake card: its ensembles, its checks, its table."""

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.cuda import answers, building, models, moving, speed
from bench.cuda.ensemble import BLOCKS, PROJECTIONS, blocks_of, write_large
from bench.cuda.report import conditions, rows
from bench.scale import QUICK
from bench.tables import markdown
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exllamav2.compute import CardCompute
from flexquant.engine.exllamav2.facts import GpuFacts
from flexquant.engine.segment import Floats
from flexquant.ensemble_builder import build, quantizer_choice
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.exllamav2.convert_model import convert_model
from support.converting import python_path, stand_in
from support.ensembles import Shape, random_ensemble
from support.fake_card import FakeSetUp
from support.fake_device import fake_card
from support.tiny_checkpoint import tiny_checkpoint


@pytest.fixture(autouse=True)
def _fake_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(*, keep_copies: bool = False) -> CardCompute:
        return FakeSetUp(keep_copies=keep_copies).compute()

    monkeypatch.setattr(models, "card_compute", compute)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return Ensemble.open(write_large(tmp_path_factory.mktemp("cuda") / "large", replace(QUICK.shape, context=20_000)))


def test_the_ensemble_moves_by_blocks_and_by_projections(large: Ensemble) -> None:
    blocks, projections = large.sequence(BLOCKS), large.sequence(PROJECTIONS)
    layers = large.config.layers
    assert [len(transition.moves) for transition in blocks.transitions] == [4, 3] * layers + [1]
    assert len(projections.transitions) == 7 * layers + 1
    assert blocks.footprint_bytes[-1] == projections.footprint_bytes[-1]
    assert large.manifest.default_sequence == BLOCKS
    assert blocks_of(["a.b.q", "a.b.k", "a.c.x", "head"]) == [["a.b.q", "a.b.k"], ["a.c.x"], ["head"]]


def test_moving_is_measured(large: Ensemble) -> None:
    found = moving.given_back(large, BLOCKS, keep_copies=True)
    assert found["ok"]
    assert found["returned"] == 1.0
    assert found["steps"] == 5
    gaps = moving.between_tokens(large, PROJECTIONS, sweeps=1, keep_copies=False)
    assert gaps["tokens"] >= 2 * len(large.sequence(PROJECTIONS).transitions)
    assert speed.streams(large, counts=(2,), tokens=2)[0]["tokens_per_s"] > 0


def test_right_and_wrong_answers_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(layers=1, context=2048)
    ensemble = Ensemble.open(random_ensemble(tmp_path / "tiny", shape, transitions=[[("lm_head", 0, 1)]]))
    assert answers.logits_at_every_position(ensemble)["ok"]
    assert answers.weights_at_every_position(ensemble) == {"compared": 24, "wrong": [], "ok": True}
    assert answers.tokens_while_moving(ensemble, count=3)["equal"] == 3
    assert answers.batches(ensemble, streams=3)["ok"]
    right = models.prompt_logits
    monkeypatch.setattr(answers, "prompt_logits", lambda *arguments: _turned(right(*arguments)))
    assert not answers.logits_at_every_position(ensemble)["ok"]


_calls = itertools.count()


def _turned(logits: Floats) -> Floats:
    """Every other result, which is the card's, is off by a percent."""
    return logits * np.float32(1.01 if next(_calls) % 2 == 0 else 1)


def test_results_become_a_table(large: Ensemble) -> None:
    results = {
        "facts": {"torch": "2.11", "exllamav2": "0.3.2", "flash_attn": None},
        "logits": {"positions": 3, "rows": 9, "worst": {"relative": 0.001}, "same_most_likely_token": 9},
        "weights": {"error": "it failed", "ok": False},
        "memory": [moving.given_back(large, BLOCKS, keep_copies=False)],
        "speed": [{"position": 0, "ours": [2.0, 4.0], "plain": [2.0, 2.0]}],
    }
    text = markdown(rows(json.loads(json.dumps(results))))
    assert "logits at all 3 positions" in text
    assert "| 1.50 |" in text
    assert "device memory given back" in text
    assert "reconstructed" not in text
    assert "flash-attn none" in conditions(results, "a machine")["software"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a long context, on a machine with a card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 << 30, 8 << 30))
    return tiny_checkpoint(tmp_path / "tiny", max_position_embeddings=2048)


def test_measuring_on_the_card_is_compared_with_the_host(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["--calibration", str(building.TEXTS / "calibration.txt"), "--search-text", str(building.UNSEEN)]
    out = tmp_path / "built"
    assert (
        main([str(tiny), "--preset", "quick", "--search-tokens", "1024", "--device", "cpu", *texts, "--out", str(out)])
        == 0
    )
    with fake_card():
        found = building.measuring(out, checkpoint=tiny, positions="0,5,N", windows=2)
        assert found["ok"]
        assert found["models"] == 4
        assert found["seconds"].keys() == {"cpu", "cuda"}
        assert building.measuring_large(out, windows=1)["models"] == 2
        monkeypatch.setattr(building, "PERPLEXITY_TOLERANCE", -1.0)
        assert not building.measuring(out, checkpoint=tiny, positions="0", windows=1)["ok"]


def test_levels_of_both_quantizers_are_compared(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.setattr(quantizer_choice, "gpu_facts", GpuFacts)
    monkeypatch.setattr(build, "convert_model", functools.partial(convert_model, command=stand_in()))
    with fake_card():
        found = building.converting(tmp_path, checkpoint=tiny, windows=1)
    assert found["ok"]
    by = found["by"]
    for made in by.values():
        best, smallest = made["ends"]
        assert best["footprint_bytes"] > smallest["footprint_bytes"]
        assert 0 <= best["kl"] < smallest["kl"]
    assert by["own"]["ends"] != by["exllamav2"]["ends"]
    text = markdown(rows({"converting": found}))
    assert "docs-llama at 4 bits by exllamav2's converter: kl" in text
    assert "docs-llama at 8 bits by exllamav2's converter: footprint" in text
