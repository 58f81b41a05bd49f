"""Nested ensembles through the command line: what is stored, what it is worth, and that everything else knows it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import read_manifest
from flexquant.engine.model_config import HEAD, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.planned_ensemble import planned_ensemble
from flexquant.ensemble_builder.pruned_ensemble import disk_bytes
from flexquant.ensemble_builder.store_writer import QUANTIZED_NAME
from flexquant.ensemble_builder.stores import Store, open_store, stores_of
from support.elastic_models import digests, digests_by_position, generate, move
from support.planned import assert_same_sizes
from support.tiny_checkpoint import TEXT, tiny_checkpoint, write_texts

QUICK = ("--preset", "quick")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    calibration, search = write_texts(tmp_path_factory.mktemp("texts"))
    return ["--calibration", str(calibration), "--search-text", str(search)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, model: Path, texts: list[str]) -> dict[str, Path]:
    """Ensembles by name."""
    folder = tmp_path_factory.mktemp("built")
    given = {
        "pair": ["--levels", "8,4"],
        "nested": ["--levels", "8,4", "--nested"],
        "three": ["--levels", "8,4,2", "--nested"],
        "sliced": ["--levels", "8,3", "--nested", "--max-step", "2000"],
    }
    for name, options in given.items():
        assert main([str(model), *options, "--out", str(folder / name), *texts, *QUICK]) == 0
    return {name: folder / name for name in given}


@pytest.mark.parametrize(
    ("name", "levels", "nested", "max_step"),
    [
        ("pair", (8.0, 4.0), False, None),
        ("nested", (8.0, 4.0), True, None),
        ("three", (8.0, 4.0, 2.0), True, None),
        ("sliced", (8.0, 3.0), True, 2000),
    ],
)
def test_what_was_built_is_what_was_planned(
    built: dict[str, Path], model: Path, name: str, levels: tuple[float, ...], nested: bool, max_step: int | None
) -> None:
    planned = planned_ensemble(
        read_model_config(model), levels, group_size=32, max_step=max_step, nested=nested, name=model.name
    )
    assert_same_sizes(planned, Ensemble.open(built[name]))


def stores(folder: Path) -> list[Store]:
    return stores_of(folder, read_manifest(folder))


def error_of(store: Store, model: Path) -> float:
    """Mean squared error of the decoder's weights, relative to their squares."""
    dense, found = DenseWeights(TensorIndex.open(model), store.config), store.weights()
    errors = []
    for shape in store.config.linears():
        eye = torch.eye(shape.in_features)
        weight = dense.linear(shape.key, eye)
        errors.append(((found.linear(shape.key, eye) - weight).square().mean() / weight.square().mean()).item())
    return float(np.mean(errors))


def test_the_low_level_is_the_one_of_a_pair(built: dict[str, Path]) -> None:
    low = Path("levels", "4.0", QUANTIZED_NAME)
    assert (built["nested"] / low).read_bytes() == (built["pair"] / low).read_bytes()


def test_the_best_level_takes_less_disk_and_is_nearly_as_good(built: dict[str, Path], model: Path) -> None:
    quantized = {
        name: sum(path.stat().st_size for path in built[name].rglob(QUANTIZED_NAME)) for name in ("pair", "nested")
    }
    assert quantized["nested"] < 0.75 * quantized["pair"]
    (nested, low), (plain, _) = stores(built["nested"]), stores(built["pair"])
    assert nested.below is not None
    assert nested.below.level == low.level
    assert error_of(nested, model) < 10 * error_of(plain, model) < error_of(low, model) / 20


def test_a_head_that_is_no_wider_has_one_variant(built: dict[str, Path]) -> None:
    """At 4 and 2 bits it has 6."""
    heads = [module for module in read_manifest(built["three"]).modules if module.linear == HEAD]
    assert [[variant.level for variant in head.variants] for head in heads] == [["8.0", "2.0"]]


@pytest.mark.parametrize("name", ["nested", "three", "sliced"])
def test_the_engine_has_the_weights_that_were_measured(built: dict[str, Path], name: str) -> None:
    ensemble = Ensemble.open(built[name], verify=True)
    expected = digests_by_position(ensemble)
    running = ElasticModel.load(ensemble, kv_pages=8, compute=choose_compute("auto", 1))
    for position in (0, len(expected) - 1, len(expected) // 2, 0):
        move(running, position)
        assert digests(running) == expected[position]
        generate(running, tokens=3)
    running.close()


def test_it_is_evaluated_and_reported(built: dict[str, Path], model: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text(TEXT[::-1] * 40)
    given = ["--text", str(text), "--checkpoint", str(model)]
    assert main(["eval", str(built["three"]), *given, "--positions", "0,N"]) == 0
    assert main(["report", str(built["three"]), *given, "--points", "3"]) == 0


def test_pruning_takes_the_residuals_of_the_best_level_first(
    built: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(built["three"]), "--rate", "0.4", "--checkpoint", str(model), *QUICK]
    assert main(["prune", *given, "--out", str(tmp_path / "pruned")]) == 0
    before, after = read_manifest(built["three"]), read_manifest(tmp_path / "pruned")
    assert after.pruning is not None
    dropped = {level: set(keys) for level, keys in after.pruning.dropped.items()}
    assert set(dropped) <= {"8.0", "4.0"}
    assert dropped.get("4.0", set()) <= dropped["8.0"]
    gone = [
        entry.nbytes
        for whole, left in zip(stores(built["three"]), stores(tmp_path / "pruned"), strict=True)
        for entry in (whole.index[name] for name in set(whole.index.names()) - set(left.index.names()))
    ]
    assert sum(gone) == after.pruning.dropped_bytes
    assert disk_bytes(before) - disk_bytes(after) >= sum(gone)
    ensemble = Ensemble.open(tmp_path / "pruned")
    expected = digests_by_position(ensemble)
    running = ElasticModel.load(ensemble, kv_pages=8, compute=choose_compute("auto", 1))
    for position in (0, len(expected) - 1, 0):
        move(running, position)
        assert digests(running) == expected[position]
    running.close()
    capsys.readouterr()
    assert main(["prune", *given, "--keep", "best", "--out", str(tmp_path / "best")]) == 2
    assert "cannot be dropped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels", "5,4"], "less than 2 apart"),
        (["--from-checkpoints", "a,b"], "--nested cannot be used with --from-checkpoints"),
    ],
)
def test_what_cannot_be_nested_is_said(
    model: Path, tmp_path: Path, options: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [] if "--from-checkpoints" in options else [str(model)]
    assert main([*source, *options, "--nested", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_residuals_are_no_model_by_themselves(
    built: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = [str(built["nested"] / "levels" / name) for name in ("8.0", "4.0")]
    assert main(["--from-checkpoints", ",".join(levels), "--out", str(tmp_path / "out")]) == 3
    assert "no model by itself" in capsys.readouterr().err


def test_levels_are_exported(
    built: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The low one as it is, the best one rounded anew; both load by themselves."""
    text = tmp_path / "other.txt"
    text.write_text(TEXT[::-1] * 40)
    low, best = tmp_path / "low", tmp_path / "best"
    assert main(["export", str(built["nested"]), "--level", "4.0", "--out", str(low)]) == 0
    assert "copied bit by bit" in capsys.readouterr().out
    for path in (built["nested"] / "levels" / "4.0").iterdir():
        assert (low / path.name).read_bytes() == path.read_bytes()
    assert (
        main(["export", str(built["nested"]), "--level", "8.0", "--out", str(best), "--text", str(text), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert 8 < found["bits_per_weight"] < 10
    assert found["kl"] < 0.01
    assert found["perplexity"] == pytest.approx(found["level_perplexity"], rel=0.01)
    (nested, _), exported = stores(built["nested"]), open_store(best, "8.0", 8.0)
    assert exported.below is None
    assert error_of(exported, model) < 3 * error_of(nested, model)
    pair = ["--from-checkpoints", f"{best},{low}", "--out", str(tmp_path / "again"), "--search-text", str(text)]
    assert main([*pair, *QUICK]) == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--level", "5.0"], 2, "no such level"),
        (["--level", "8.0"], 2, "has to be measured"),
    ],
)
def test_what_cannot_be_exported_is_said(
    built: dict[str, Path],
    tmp_path: Path,
    options: Sequence[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(built["nested"]), *options, "--out", str(tmp_path / "out")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert main(["export", str(built["nested"]), "--level", "4.0", "--out", str(tmp_path / "out")]) == 3
    assert "is there already" in capsys.readouterr().err
