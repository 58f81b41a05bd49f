"""Pruned ensembles through the command line: what is on the disk, what is promised, what is said."""

import json
from pathlib import Path

import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.spec import is_quantized
from flexquant.engine.manifest import Manifest, read_manifest
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.pruned_ensemble import disk_bytes
from support.elastic_models import fresh_logits, logits, move
from support.tiny_checkpoint import tiny_checkpoint, write_texts

QUICK = ["--budget-evals", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def whole(model: Path, texts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three levels, in slices, with a sequence of layers beside the one of slices."""
    out = tmp_path_factory.mktemp("out") / "ensemble"
    calibration, search = texts
    units = ["--unit", "projection,layer", "--max-step", "500"]
    asked = ["--calibration", str(calibration), "--search-text", str(search), *units, *QUICK]
    assert main([str(model), "--levels", "8,4,2", "--out", str(out), *asked]) == 0
    return out


def pruned(whole: Path, out: Path, texts: tuple[Path, Path], *given: str) -> Manifest:
    assert main(["prune", str(whole), "--out", str(out), "--search-text", str(texts[1]), *QUICK, *given]) == 0
    return Ensemble.open(out, verify=True).manifest


def range_of(manifest: Manifest) -> tuple[int, int]:
    footprints = manifest.sequences[manifest.default_sequence].footprint_bytes
    return footprints[-1], footprints[0]


def test_what_is_dropped_is_gone_and_what_stays_is_the_same(
    whole: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = read_manifest(whole), tmp_path / "out"
    after = pruned(whole, out, texts, "--rate", "0.3", "--json")
    assert after.pruning is not None
    gone = [(level, key) for level, keys in after.pruning.dropped.items() for key in keys]
    assert len(gone) == after.pruning.dropped_variants >= 0.3 * after.pruning.variants
    layers = {module.linear: len(module.variants) for module in before.modules}
    assert len(layers) < len(before.modules)
    assert after.pruning.variants == sum(layers.values())
    for level in before.levels:
        there, here = TensorIndex.open(whole / level.store), TensorIndex.open(out / level.store)
        for name in here.names():
            assert (here.content(name) == there.content(name)).all()
        missing = {name.rpartition(".")[0] for name in set(there.names()) - set(here.names())}
        assert missing == {key for other, key in gone if other == level.name}
        assert all(not is_quantized(here, key) for key in missing)
    headers = disk_bytes(before) - disk_bytes(after) - after.pruning.dropped_bytes
    assert 0 < headers < 1000 * len(gone)
    assert range_of(after)[0] == range_of(before)[0]
    assert after.sequences.keys() == before.sequences.keys() == {"projection", "layer"}
    assert after.pruning.footprint_range_bytes == range_of(before)
    said = json.loads(capsys.readouterr().out)
    assert said["smallest_footprint_bytes"] == [range_of(before)[0]] * 2
    assert said["measured_mean_kl"][1] >= 0
    assert said["measured_on_the_same_text"] is False  # one was measured against the unquantized model


def test_the_other_end_can_be_promised(whole: Path, texts: tuple[Path, Path], tmp_path: Path) -> None:
    after = pruned(whole, tmp_path / "out", texts, "--rate", "0.3", "--keep", "best")
    assert range_of(after)[1] == range_of(read_manifest(whole))[1]
    assert range_of(after)[0] > range_of(read_manifest(whole))[0]


def test_it_fits_the_limit(
    whole: Path, model: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = round(0.8 * disk_bytes(read_manifest(whole)))
    after = pruned(whole, tmp_path / "out", texts, "--limit", str(limit), "--checkpoint", str(model))
    assert disk_bytes(after) <= limit
    assert after.evaluation == read_manifest(whole).evaluation
    said = capsys.readouterr().out
    assert "mean KL over footprint, measured" in said
    assert "cannot be compared" not in said


@pytest.mark.parametrize("keep", ["smallest", "best"])
def test_it_serves_and_moves_over_its_whole_range(
    whole: Path, texts: tuple[Path, Path], tmp_path: Path, keep: str
) -> None:
    pruned(whole, tmp_path / "out", texts, "--rate", "0.4", "--keep", keep)
    ensemble = Ensemble.open(tmp_path / "out")
    last = len(ensemble.sequence().transitions)
    model = ElasticModel.load(ensemble, kv_pages=8)
    try:
        for position in (0, last // 2, last, last // 2, 0):
            move(model, position)
            assert logits(model).equal(fresh_logits(ensemble, position))
    finally:
        model.close()


def test_the_same_command_again_does_nothing_and_another_is_refused(
    whole: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned(whole, tmp_path / "out", texts, "--rate", "0.2")
    first = (tmp_path / "out" / "ensemble.json").read_bytes()
    pruned(whole, tmp_path / "out", texts, "--rate", "0.2")
    assert (tmp_path / "out" / "ensemble.json").read_bytes() == first
    capsys.readouterr()
    asked = ["prune", str(whole), "--out", str(tmp_path / "out"), "--search-text", str(texts[1]), *QUICK]
    assert main([*asked, "--rate", "0.3"]) == 3
    assert "pruning rate" in capsys.readouterr().err


def test_eval_and_report_know_it(whole: Path, model: Path, texts: tuple[Path, Path], tmp_path: Path) -> None:
    pruned(whole, tmp_path / "out", texts, "--rate", "0.3")
    unseen = tmp_path / "unseen.txt"
    unseen.write_text(texts[1].read_text()[::-1])
    asked = ["--text", str(unseen), "--checkpoint", str(model)]
    assert main(["eval", str(tmp_path / "out"), *asked]) == 0
    assert main(["report", str(tmp_path / "out"), *asked, "--points", "2", "--draws", "1"]) == 0


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ([], 2, "--limit or --rate is needed"),
        (["--rate", "0.9"], 2, "so much cannot be dropped"),
        (["--limit", "1K"], 2, "so much cannot be dropped"),
        (["--limit", "1G"], 2, "nothing has to go"),
        (["--rate", "1.5"], 2, "no share"),
        (["--limit", "lots"], 2, "no size"),
    ],
)
def test_what_cannot_be_done_says_why(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    code: int,
    said: str,
) -> None:
    try:
        found = main(["prune", str(whole), "--out", str(tmp_path / "out"), *asked])
    except SystemExit as ended:
        found = int(ended.code or 0)
    assert found == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pruned_ensemble_is_not_pruned_again(
    whole: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned(whole, tmp_path / "out", texts, "--rate", "0.2")
    assert main(["prune", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--rate", "0.1"]) == 3
    assert "was pruned already" in capsys.readouterr().err
