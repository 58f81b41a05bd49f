"""`flexquant-build` with names of models on the hub."""

from pathlib import Path

import pytest

from flexquant.engine.ensemble import Ensemble
from flexquant.ensemble_builder.cli import main
from support.ensembles import Shape, random_ensemble
from support.hub import Hub, Repository, files_of
from support.tiny_checkpoint import tiny_checkpoint


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "search.txt"
    path.write_text("Sphinx of black quartz, judge my vow. " * 15)
    return path


def test_a_model_of_the_hub_is_built_and_bears_its_name(
    hub: Hub, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["org/tiny"] = Repository({"main": files_of(tiny_checkpoint(tmp_path / "made"))})
    monkeypatch.chdir(tmp_path)
    calibration = tmp_path / "calibration.txt"
    calibration.write_text("Pack my box with five dozen liquor jugs. " * 15)
    flags = ["--preset", "quick", "--search-text", str(text), "--calibration", str(calibration)]
    assert main(["org/tiny", "--levels", "8,3", *flags]) == 0
    assert Ensemble.open(tmp_path / "tiny-8.0-3.0", verify=True).manifest.name == "org/tiny"
    said = capfd.readouterr()
    assert said.out == ""
    assert "downloading org/tiny: " in said.err


def test_two_revisions_of_the_hub_become_an_ensemble(hub: Hub, text: Path, tmp_path: Path) -> None:
    levels = random_ensemble(tmp_path / "made", Shape(layers=1), bits=(8, 2)) / "levels"
    branches = {f"{level}bpw": files_of(levels / level) for level in ("8.0", "2.0")}
    for files in branches.values():  # as exllamav2 names them
        for name in [name for name in files if name.endswith(".safetensors")]:
            files[f"output-{name}"] = files.pop(name)
    hub.repositories["org/tiny-exl2"] = Repository(branches)
    pair = "org/tiny-exl2@8.0bpw, org/tiny-exl2@2.0bpw"
    out = tmp_path / "out"
    assert main(["--from-checkpoints", pair, "--search-text", str(text), "--preset", "quick", "--out", str(out)]) == 0
    manifest = Ensemble.open(out, verify=True).manifest
    assert manifest.name == "org/tiny-exl2"
    assert len(manifest.levels) == 2


def test_mistakes_are_told_without_a_traceback(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["org/nothing", "--levels", "8,3", "--out", str(tmp_path / "out")]) == 3
    said = capfd.readouterr().err
    assert "error: org/nothing: there is no such folder here, and" in said
    assert "hint: Check the name." in said
    assert "Traceback" not in said
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 3
    assert "a model on the hub as org/name" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
