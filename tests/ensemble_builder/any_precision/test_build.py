"""Any-Precision ensembles through the command line: built, measured, served, pruned, imported; and what is refused."""

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
from flexquant.engine.torch_tensors import read_tensor
from flexquant.ensemble_builder.any_precision.sizes import planes_and_tables
from flexquant.ensemble_builder.any_precision.widths import widths_of
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.hub.disk_room import ensemble_bytes
from flexquant.ensemble_builder.pruned_ensemble import disk_bytes
from support.any_precision_files import Codes, packed_checkpoint, weights_of
from support.elastic_models import generate, move
from support.tiny_checkpoint import FAMILIES, TEXT, tiny_checkpoint, write_texts

QUICK = ("--preset", "quick")
LEVELS = (5.0, 4.0, 3.0)
NAMES = ["5.0", "4.0", "3.0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    calibration, search = write_texts(tmp_path_factory.mktemp("texts"))
    return ["--calibration", str(calibration), "--search-text", str(search)]


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("unseen") / "unseen.txt"
    path.write_text(TEXT.upper() * 40)
    return str(path)


@pytest.fixture(scope="module")
def built(model: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "ensemble"
    given = ["--method", "any-precision", "--levels", "5,4,3", "--unit", "projection,block", "--out", str(out)]
    assert main([str(model), *given, *texts, *QUICK]) == 0
    return out


def stores(folder: Path) -> list[Path]:
    """From the smallest to the best."""
    return [folder / level.store for level in reversed(read_manifest(folder).levels)]


def test_the_manifest_says_what_lies_on_what_and_what_it_takes(built: Path) -> None:
    manifest = Ensemble.open(built, verify=True).manifest
    assert manifest.method == "any-precision"
    assert [(level.name, level.on) for level in manifest.levels] == [("5.0", "4.0"), ("4.0", "3.0"), ("3.0", None)]
    assert manifest.quantization is not None
    assert manifest.quantization.group_size is None
    shapes = {shape.key: shape for shape in read_model_config(built / "levels" / "5.0").linears()}
    for module in manifest.modules:
        assert [variant.level for variant in module.variants] == (["3.0"] if module.linear == HEAD else NAMES)
        sizes = [variant.bytes for variant in module.variants]
        assert sizes == planes_and_tables(shapes[module.linear], widths_of(shapes[module.linear], LEVELS))
    assert len(manifest.sequences["projection"].transitions) == 2 * 7 * 2
    assert len(manifest.sequences["block"].transitions) == 2 * 2 * 2


def test_what_it_takes_on_disk_is_known_before(built: Path) -> None:
    """But for JSON, the tokenizer and the norms."""
    manifest = read_manifest(built)
    expected = ensemble_bytes(read_model_config(built / "levels" / "3.0"), LEVELS, 32, "any-precision")
    assert manifest.embedding_bytes + sum(module.variants[0].bytes for module in manifest.modules) == expected
    tensors = sum((store / "quantized.safetensors").stat().st_size for store in stores(built))
    assert 0 < tensors - (expected - manifest.embedding_bytes) < 20_000  # headers


def test_more_bits_are_better(built: Path) -> None:
    quality = read_manifest(built).sequences["projection"].quality
    assert quality[0].kl < quality[-1].kl / 4


def test_the_engine_has_the_weights_of_every_position(built: Path) -> None:
    """By a reader that the engine's own has nothing to do with."""
    ensemble = Ensemble.open(built)
    manifest, files = ensemble.manifest, stores(built)
    running = ElasticModel.load(ensemble, kv_pages=8, compute=choose_compute("torch", 1))
    try:
        for position in (0, len(ensemble.sequence().transitions), 9, 0):
            move(running, position)
            for module in manifest.modules:
                variant, weights = running.weights_of(module.name)
                levels = len(manifest.levels) - NAMES.index(module.variants[variant].level)
                assert np.array_equal(weights.T[: module.out_features], weights_of(files[:levels], module.linear))
            generate(running, tokens=3)
    finally:
        running.close()


def test_it_is_evaluated_and_reported(built: Path, model: Path, unseen: str, tmp_path: Path) -> None:
    given = ["--text", unseen, "--checkpoint", str(model)]
    assert main(["eval", str(built), *given, "--positions", "0,N"]) == 0
    assert main(["report", str(built), *given, "--points", "3"]) == 0
    record = json.loads((built / "report.json").read_bytes())["report"]
    whole = next(method for method in record["methods"] if method["name"] == "whole-model")
    points = whole["draws"][0]["points"]
    own = record["methods"][0]["draws"][0]["points"]
    assert len(points) == 3
    assert [points[at] for at in (0, -1)] == [own[at] | {"position": at % 3} for at in (0, -1)]
    assert any(said.startswith("The whole model at one width") for said in record["findings"])


def test_it_is_compared_with_another_method(
    built: Path, model: Path, texts: list[str], unseen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One ensemble is ready, the other one is built by the comparison."""
    given = ["--text", unseen, *texts, "--points", "1", "--draws", "1", "--windows", "4", "--exhaustive", "0"]
    ensembles = ["--ensemble", str(built), "--levels", "4,3"]
    assert main(["compare", str(model), *ensembles, *given, *QUICK, "--out", str(tmp_path / "out")]) == 0
    assert "ensembles beside each other" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "compare.json").read_bytes())
    assert [found["name"] for found in record["ensembles"]] == ["exl2 4.0-3.0", "any-precision 5.0-4.0-3.0"]
    assert [method["name"] for method in record["ensembles"][1]["methods"]][2] == "whole-model"
    assert len(record["between"]) == 1
    assert "any-precision 5.0-4.0-3.0, one width" in (tmp_path / "out" / "compare.html").read_text()
    wrong = ["--any-precision", "4,2.5", "--out", str(tmp_path / "wrong")]
    assert main(["compare", str(model), *given, *wrong]) == 2
    assert "2.5 is no whole number of bits" in capsys.readouterr().err


def test_pruning_takes_the_best_level_first(built: Path, model: Path, tmp_path: Path) -> None:
    given = [str(built), "--rate", "0.3", "--checkpoint", str(model), *QUICK]
    assert main(["prune", *given, "--out", str(tmp_path / "pruned")]) == 0
    before, after = read_manifest(built), read_manifest(tmp_path / "pruned")
    assert after.pruning is not None
    assert set(after.pruning.dropped) <= {"5.0", "4.0"}
    assert set(after.pruning.dropped.get("4.0", [])) <= set(after.pruning.dropped["5.0"])
    assert disk_bytes(before) - disk_bytes(after) >= after.pruning.dropped_bytes
    Ensemble.open(tmp_path / "pruned", verify=True)


def test_layers_are_cut_into_slices(model: Path, texts: list[str], tmp_path: Path) -> None:
    given = ["--method", "any-precision", "--levels", "4,2", "--max-step", "1500"]
    assert main([str(model), *given, "--out", str(tmp_path / "out"), *texts, *QUICK]) == 0
    manifest = Ensemble.open(tmp_path / "out").manifest
    sliced = [module for module in manifest.modules if module.columns is not None]
    assert {module.linear.rpartition(".")[2] for module in sliced} == {"gate_proj", "up_proj"}
    assert max(module.variants[0].bytes - module.variants[1].bytes for module in sliced) <= 1500


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llama"])
def test_every_family_is_built(family: str, texts: list[str], tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / family, family=family)
    given = ["--method", "any-precision", "--levels", "4,3", "--unit", "layer"]
    assert main([str(source), *given, "--out", str(tmp_path / "out"), *texts, *QUICK]) == 0
    quality = Ensemble.open(tmp_path / "out").sequence().quality
    assert quality[0].kl < quality[-1].kl


@pytest.fixture(scope="module")
def packed(built: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ensemble's own codes and tables, in the form of others."""
    codes: dict[str, Codes] = {}
    tables: dict[str, dict[int, torch.Tensor]] = {}
    for shape in read_model_config(model).linears():
        if shape.key == HEAD:
            continue
        found: list[np.ndarray[tuple[int, ...], np.dtype[np.uint32]]] = []
        tables[shape.key] = {}
        for level, store in zip(reversed(LEVELS), stores(built), strict=True):
            index = TensorIndex.open(store)
            found += [*read_tensor(index, f"{shape.key}.planes").numpy().view(np.uint32)]
            tables[shape.key][int(level)] = read_tensor(index, f"{shape.key}.table")
        bits = [(plane[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(len(plane), -1) for plane in found]
        codes[shape.key] = sum(plane << at for at, plane in enumerate(reversed(bits))).astype(np.uint8)
    folder = tmp_path_factory.mktemp("packed") / "packed"
    return packed_checkpoint(folder, model, codes, tables, seed=3)


def test_a_packed_checkpoint_has_the_same_tensors(
    packed: Path, built: Path, model: Path, texts: list[str], tmp_path: Path
) -> None:
    """All but the head's, which it has unquantized; and a part of the levels alone."""
    out = tmp_path / "imported"
    given = ["--checkpoint", str(model), *texts[2:], *QUICK, "--unit", "layer"]
    assert main([str(packed), *given, "--out", str(out)]) == 0
    for ours, theirs in zip(stores(built), stores(out), strict=True):
        here, there = TensorIndex.open(ours), TensorIndex.open(theirs)
        assert here.names() == there.names()
        for name in here.names():
            if not name.startswith(HEAD):
                assert torch.equal(read_tensor(here, name), read_tensor(there, name))
    manifest = Ensemble.open(out, verify=True).manifest
    assert manifest.quantization is None
    assert manifest.evaluation.reference == "unquantized"
    ends = [read_manifest(folder).sequences[name].quality for folder, name in ((built, "projection"), (out, "layer"))]
    assert [quality.kl for quality in (ends[1][0], ends[1][-1])] == pytest.approx(
        [quality.kl for quality in (ends[0][0], ends[0][-1])], rel=0.3
    )
    two = tmp_path / "two"
    assert main([str(packed), *given, "--levels", "5,3", "--out", str(two)]) == 0
    index = TensorIndex.open(two / "levels" / "5.0")
    assert index["model.layers.0.mlp.down_proj.planes"].shape[0] == 2
    key = "model.layers.1.mlp.up_proj"
    assert np.array_equal(weights_of(stores(two), key), weights_of(stores(built), key))


def test_a_packed_checkpoint_alone_makes_its_own_text(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        main([str(packed), "--levels", "4,3", "--unit", "layer", "--search-tokens", "1", *QUICK, "--out", str(out)])
        == 0
    )
    assert read_manifest(out).evaluation.reference == "position 0"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels", "5,3.5"], "3.5 is no whole number of bits"),
        (["--nested"], "--nested cannot be used with --method any-precision"),
        (["--group-size", "64"], "--group-size cannot be used with --method any-precision"),
    ],
)
def test_what_it_does_not_have_is_said(
    model: Path, tmp_path: Path, options: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model), "--method", "any-precision", *options, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels", "6,3"], "has no table of 6 bits"),
        (["--method", "exl2"], "--method exl2 cannot be had from it"),
        (["--calibration", "a.txt"], "--calibration cannot be used with a packed Any-Precision checkpoint"),
    ],
)
def test_what_a_packed_checkpoint_does_not_have_is_said(
    packed: Path, tmp_path: Path, options: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(packed), *options, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_levels_are_not_exported(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(built), "--level", "3.0", "--out", str(tmp_path / "out")]) == 2
    assert "only EXL2 levels are exported" in capsys.readouterr().err


def test_its_levels_are_no_exl2_checkpoints(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = ",".join(str(store) for store in stores(built))
    assert main(["--from-checkpoints", levels, "--out", str(tmp_path / "out")]) == 3
    assert "is not in EXL2" in capsys.readouterr().err
