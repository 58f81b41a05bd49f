"""`flexquant-build eval` on an ensemble of random weights."""

import json
from pathlib import Path

import pytest

from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import read_manifest
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.eval_command import parse_positions, spread_positions
from support.ensembles import Shape, random_ensemble


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_ensemble(tmp_path_factory.mktemp("made"), Shape(layers=1))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "report.txt"
    path.write_text("Sphinx of black quartz, judge my vow. " * 40)
    return path


def test_json_has_every_asked_position(ensemble: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(ensemble), "--text", str(text), "--positions", "N,0,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    footprints = read_manifest(ensemble).sequences["default"].footprint_bytes
    assert [(row["position"], row["footprint_bytes"]) for row in found["rows"]] == [
        (position, footprints[position]) for position in (0, 2, 8)
    ]
    assert (found["windows"], found["window_tokens"], found["text"]["name"]) == (2, 512, "report.txt")
    assert all(row["kl"] is None and row["perplexity"] > 1 for row in found["rows"])


def test_the_table_goes_to_stdout_and_progress_to_stderr(
    ensemble: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(ensemble), "--text", str(text), "--windows", "1"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["position", "footprint", "perplexity", "KL"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "3", "4", "5", "7", "8"]
    assert "evaluating" in captured.err


def test_a_checkpoint_of_another_model_is_refused(
    ensemble: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(__file__).parent.parent / "assets" / "docs-llama"
    assert main(["eval", str(ensemble), "--text", str(text), "--checkpoint", str(other)]) == 3
    assert "are of different models: hidden_size is 64 in the first and 256 in the second" in capsys.readouterr().err


def test_a_folder_that_is_no_ensemble(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tmp_path), "--text", str(text)]) == 3
    assert "ensemble.json: cannot be read" in capsys.readouterr().err


def test_positions_as_a_person_writes_them() -> None:
    assert parse_positions("0, 5,N", 57) == [0, 5, 57]
    assert parse_positions("n,3,3", 7) == [3, 7]


@pytest.mark.parametrize("positions", ["58", "-1", "1.5", "x", ""])
def test_positions_that_do_not_exist(positions: str) -> None:
    with pytest.raises(UsageError, match="0 to N = 57") as caught:
        parse_positions(f"0,{positions}", 57)
    assert caught.value.hint is not None


@pytest.mark.parametrize(("last", "spread"), [(57, [0, 10, 19, 28, 38, 48, 57]), (3, [0, 1, 2, 3]), (0, [0])])
def test_positions_that_nobody_asked_for(last: int, spread: list[int]) -> None:
    found = spread_positions(last)
    assert (found[0], found[-1], len(found)) == (0, last, len(spread))
    assert found == sorted(set(found))
