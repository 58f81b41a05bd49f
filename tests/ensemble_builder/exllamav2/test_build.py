"""Whole builds whose levels exllamav2's converter makes."""

import functools
import io
import json
from pathlib import Path

import pytest

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import InputError
from flexquant.ensemble_builder import build as module
from flexquant.ensemble_builder.build import build
from flexquant.ensemble_builder.exllamav2.convert_model import convert_model
from flexquant.ensemble_builder.options import QuantizeOptions, SearchOptions
from flexquant.ensemble_builder.progress import Progress
from support.converting import LEVELS, stand_in
from support.tiny_checkpoint import write_texts


@pytest.fixture(autouse=True)
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "convert_model", functools.partial(convert_model, command=stand_in()))


def run(checkpoint: Path, out: Path, text: Path | None, search: Path, tokens: int = 512) -> str:
    shown = io.StringIO()
    build(
        checkpoint,
        out,
        QuantizeOptions(levels=LEVELS, calibration=text, calibration_tokens=tokens, quantizer="exllamav2"),
        SearchOptions(text=search, tokens=256, seed=0, evaluations=0, minutes=None),
        Progress(shown, environment={}),
    )
    return shown.getvalue()


def test_an_ensemble_of_a_text(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calibration, search = write_texts(tmp_path)
    shown = run(checkpoint, out, calibration, search)
    ensemble = Ensemble.open(out, verify=True)
    quantization = ensemble.manifest.quantization
    assert quantization is not None
    assert quantization.model_dump(exclude={"calibration": {"sha256"}}) == {
        "quantizer": "exllamav2 0.3.2's converter",
        "group_size": None,
        "calibration": {"name": "calibration.txt", "tokens": 384},
    }
    assert [level.name for level in ensemble.manifest.levels] == ["4.0", "2.5"]
    first, last = ensemble.sequence().quality[0], ensemble.sequence().quality[-1]
    assert 0 < first.kl < last.kl
    assert "sampling" not in shown
    assert sorted(path.name for path in out.iterdir()) == ["ensemble.json", "levels", "report.json", "search.jsonl"]
    settings = json.loads((out / "report.json").read_text())["settings"]
    assert settings["quantizer"] == "exllamav2 0.3.2"
    assert "group size" not in settings
    assert "is finished already" in run(checkpoint, out, calibration, search)


def test_an_ensemble_of_the_converters_own_mix_samples_nothing_to_calibrate_on(
    checkpoint: Path, tmp_path: Path
) -> None:
    _, search = write_texts(tmp_path)
    shown = run(checkpoint, tmp_path / "out", None, search)
    quantization = Ensemble.open(tmp_path / "out", verify=True).manifest.quantization
    assert quantization is not None
    assert (quantization.calibration.name, quantization.calibration.tokens) == ("exllamav2's own mix", 115 * 128)
    assert "sampling" not in shown


def test_a_build_of_our_own_levels_is_not_continued_with_the_converter(checkpoint: Path, tmp_path: Path) -> None:
    calibration, search = write_texts(tmp_path)
    build(
        checkpoint,
        tmp_path / "out",
        QuantizeOptions(levels=LEVELS, calibration=calibration, calibration_tokens=512),
        SearchOptions(text=search, tokens=256, seed=0, evaluations=0, minutes=None),
        Progress(io.StringIO()),
    )
    with pytest.raises(InputError, match="holds an ensemble with group size 32"):
        run(checkpoint, tmp_path / "out", calibration, search)
