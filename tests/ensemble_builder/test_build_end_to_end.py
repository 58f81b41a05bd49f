"""Builds through the command line, on a checkpoint that takes a second."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import Manifest, read_manifest
from flexquant.ensemble_builder import completion
from flexquant.ensemble_builder.cli import main
from support.tiny_checkpoint import TEXT, tiny_checkpoint, write_texts

Say = Callable[[], str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    calibration, search = write_texts(tmp_path_factory.mktemp("texts"))
    return ["--calibration", str(calibration), "--search-text", str(search)]


@pytest.fixture(scope="module")
def ensemble(model: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ensemble"
    assert main([str(model), "--levels", "8,3", "--out", str(out), *texts]) == 0
    return out


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what went to stderr; no traceback may."""

    def said() -> str:
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return captured.err

    return said


def test_what_is_built_opens_and_verifies(ensemble: Path) -> None:
    opened = Ensemble.open(ensemble, verify=True)
    assert opened.manifest.name == "tiny"
    assert [level.name for level in opened.manifest.levels] == ["8.0", "3.0"]
    assert opened.manifest.quantization is not None
    assert opened.manifest.quantization.calibration.name == "calibration.txt"
    assert opened.manifest.evaluation.text.name == "search.txt"
    assert opened.manifest.evaluation.reference == "unquantized"
    assert sorted(path.name for path in ensemble.iterdir()) == [
        "ensemble.json",
        "levels",
        "report.json",
        "search.jsonl",
    ]


def test_every_module_is_lowered_once_and_quality_falls_from_end_to_end(ensemble: Path) -> None:
    manifest = read_manifest(ensemble)
    sequence = manifest.sequences["projection"]
    moved = [move.module for transition in sequence.transitions for move in transition.moves]
    assert sorted(moved) == sorted(module.name for module in manifest.modules)
    first, last = sequence.quality[0], sequence.quality[-1]
    assert first.kl < last.kl
    assert first.perplexity == pytest.approx(manifest.evaluation.reference_perplexity, rel=0.005)


def test_the_report_says_what_the_search_cost(ensemble: Path) -> None:
    report = json.loads((ensemble / "report.json").read_text())
    assert report["search"]["evaluations"] == read_manifest(ensemble).search.evaluations
    areas = report["search"]["sequences"]["projection"]
    assert areas["area"] <= areas["greedy_area"]


def test_the_same_build_again_gives_the_same_bytes(
    ensemble: Path, model: Path, texts: list[str], tmp_path: Path
) -> None:
    assert main([str(model), "--levels", "8,3", "--out", str(tmp_path / "again"), *texts]) == 0
    assert (tmp_path / "again" / "ensemble.json").read_bytes() == (ensemble / "ensemble.json").read_bytes()


def test_a_finished_build_is_left_as_it_is(ensemble: Path, model: Path, texts: list[str], complaint: Say) -> None:
    before = (ensemble / "ensemble.json").stat()
    assert main([str(model), "--levels", "8,3", "--out", str(ensemble), *texts]) == 0
    assert "is finished already" in complaint()
    assert (ensemble / "ensemble.json").stat() == before


def test_three_levels_and_no_text(model: Path, tmp_path: Path) -> None:
    """Texts are sampled from the model; the calibration text is another one than the search text."""
    out = tmp_path / "out"
    assert (
        main([str(model), "--levels", "8,4,2.5", "--out", str(out), "--preset", "quick", "--search-tokens", "256"]) == 0
    )
    manifest = Ensemble.open(out, verify=True).manifest
    assert len(manifest.sequences["projection"].transitions) == 14 * 2 + 1  # the head has 6 bits at both lower levels
    assert manifest.quantization is not None
    calibration, search = manifest.quantization.calibration, manifest.evaluation.text
    assert (calibration.name, search.name) == ("sampled from the model, seed 0", "sampled from the model, seed 1")
    assert calibration.sha256 != search.sha256


@pytest.fixture(scope="module")
def sliced(model: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ensemble of slices with a sequence of every kind."""
    out = tmp_path_factory.mktemp("out") / "sliced"
    units = ["--unit", "block,projection", "--unit", "layer", "--max-step", "2K"]
    assert main([str(model), "--levels", "8,3", "--out", str(out), *units, *texts]) == 0
    return out


def test_sequences_of_every_unit_share_their_ends(sliced: Path) -> None:
    manifest = Ensemble.open(sliced, verify=True).manifest
    assert {name: found.unit for name, found in manifest.sequences.items()} == {
        "block": "block",
        "projection": "slice",
        "layer": "layer",
    }
    assert manifest.default_sequence == "block"
    block, projection, layer = manifest.sequences.values()
    assert [len(found.transitions) for found in (block, projection, layer)] == [5, len(manifest.modules), 3]
    for found in (block, layer):
        ends = [(each.footprint_bytes[at], each.quality[at]) for at in (0, -1) for each in (found, projection)]
        assert ends[0] == ends[1]
        assert ends[2] == ends[3]
    assert all(module.sensitivity is not None for module in manifest.modules)


def test_no_step_gives_back_more_than_asked(sliced: Path) -> None:
    manifest = read_manifest(sliced)
    assert any(module.columns for module in manifest.modules)
    assert all(module.variants[0].bytes - module.variants[-1].bytes <= 2048 for module in manifest.modules)


def test_what_is_measured_again_at_positions_between_is_what_the_manifest_has(
    sliced: Path, model: Path, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(model), "--levels", "8,3", "--out", str(out), "--max-step", "2K", *texts]) == 0
    capsys.readouterr()
    quality = read_manifest(out).sequences["projection"].quality
    assert quality == read_manifest(sliced).sequences["projection"].quality
    asked = ["eval", str(out), "--text", texts[3], "--checkpoint", str(model), "--positions", "0,3,8,N", "--json"]
    assert main(asked) == 0
    rows = json.loads(capsys.readouterr().out)["rows"][1:]
    assert [row["kl"] for row in rows] == pytest.approx([quality[row["position"]].kl for row in rows], rel=1e-4)


def test_a_step_that_cannot_be_that_small(model: Path, texts: list[str], tmp_path: Path, complaint: Say) -> None:
    arguments = ["--levels", "8,3", "--max-step", "100", "--budget-evals", "0"]
    assert main([str(model), "--out", str(tmp_path / "out"), *arguments, *texts]) == 0
    assert "modules of 32 columns cannot be cut finer" in complaint()


def test_the_budget_bounds_the_search(model: Path, texts: list[str], tmp_path: Path) -> None:
    def evaluations(*budget: str) -> int:
        out = tmp_path / "-".join(budget)
        assert main([str(model), "--levels", "8,2", "--out", str(out), *texts, *budget]) == 0
        return read_manifest(out).search.evaluations

    assert evaluations("--budget-evals", "0") == 2 * 15
    assert 2 * 15 < evaluations("--budget-evals", "40") <= 40
    assert evaluations("--budget-minutes", "0") == 2 * 15


def test_levels_that_exist_already(
    ensemble: Path, model: Path, texts: list[str], tmp_path: Path, complaint: Say
) -> None:
    """The stores of a built ensemble, searched over again, give the same sequence and figures."""
    checkpoints = ",".join(str(ensemble / "levels" / name) for name in ("3.0", "8.0"))
    out = tmp_path / "out"
    assert main(["--from-checkpoints", checkpoints, "--out", str(out), "--checkpoint", str(model), *texts[2:]]) == 0
    complaint()
    imported, built = Ensemble.open(out, verify=True).manifest, read_manifest(ensemble)
    assert without_provenance(imported) == without_provenance(built)
    assert imported.quantization is None


def without_provenance(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"quantization": None, "files": {}})


def test_levels_that_exist_already_and_nothing_else(ensemble: Path, tmp_path: Path) -> None:
    """Without the unquantized model the text is sampled from the best level, and KL is measured against it."""
    checkpoints = ",".join(str(ensemble / "levels" / name) for name in ("3.0", "8.0"))
    out = tmp_path / "out"
    assert main(["--from-checkpoints", checkpoints, "--out", str(out), "--search-tokens", "256"]) == 0
    manifest = Ensemble.open(out, verify=True).manifest
    assert manifest.evaluation.reference == "position 0"
    assert manifest.sequences["projection"].quality[0].kl == 0.0


def test_eval_has_a_row_for_the_unquantized_model(
    ensemble: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.txt").write_text(TEXT.upper() * 4)
    arguments = ["eval", str(ensemble), "--text", str(tmp_path / "report.txt"), "--checkpoint", str(model), "--json"]
    assert main([*arguments, "--positions", "0,N"]) == 0
    dense, best, smallest = json.loads(capsys.readouterr().out)["rows"]
    assert (dense["position"], dense["kl"]) == (None, 0.0)
    assert 0 < best["kl"] < smallest["kl"]
    assert best["perplexity"] == pytest.approx(dense["perplexity"], rel=0.02)


def test_sample_text(model: Path, tmp_path: Path, complaint: Say) -> None:
    def sampled(name: str, seed: str) -> str:
        out = tmp_path / name
        assert main(["sample-text", str(model), "--tokens", "200", "--seed", seed, "--out", str(out)]) == 0
        return out.read_text()

    assert sampled("a", "1") == sampled("b", "1") != sampled("c", "2")
    assert len(sampled("a", "1")) > 100
    complaint()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--levels", "3,8"], 2, "levels must fall"),
        (["--levels", "8,8"], 2, "levels must fall"),
        (["--levels", "8,1"], 2, "1 bits is outside 2 to 8"),
        (["--checkpoint", "elsewhere"], 2, "--checkpoint cannot be used with an unquantized MODEL"),
        (["--group-size", "48"], 2, "group size 48"),
        (["--unit", "row"], 2, "--unit row: 'row' is no unit"),
        (["--calibration", "nowhere.txt"], 3, "nowhere.txt: cannot be read"),
        (["--from-checkpoints", "a,b"], 2, "MODEL cannot be used with --from-checkpoints"),
    ],
)
def test_arguments_that_cannot_work(
    model: Path, texts: list[str], tmp_path: Path, complaint: Say, arguments: list[str], code: int, says: str
) -> None:
    out = tmp_path / "out"
    assert main([str(model), "--out", str(out), *texts, *arguments]) == code
    assert says in complaint()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model", "--seed", "-1"],
        ["model", "--budget-minutes", "soon"],
        ["model", "--max-step", "big"],
        ["model", "--nonsense"],
        ["eval", "e"],
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], complaint: Say) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in complaint()


def test_a_missing_checkpoint(tmp_path: Path, complaint: Say) -> None:
    assert main([str(tmp_path / "nowhere"), "--levels", "8,3"]) == 3
    assert "nowhere: there is no such folder" in complaint()


def test_an_unknown_architecture(tmp_path: Path, complaint: Say) -> None:
    model = tiny_checkpoint(tmp_path / "mamba", model_type="mamba")
    out = tmp_path / "out"
    assert main([str(model), "--levels", "8,3", "--out", str(out)]) == 3
    said = complaint()
    assert "model_type is 'mamba'" in said
    assert "hint: Supported: llama" in said
    assert not out.exists()


def test_a_truncated_checkpoint(texts: list[str], tmp_path: Path, complaint: Say) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert main([str(model), "--levels", "8,3", "--out", str(tmp_path / "out"), *texts]) == 3
    assert "model.safetensors" in complaint()


def test_a_text_that_is_too_short(model: Path, texts: list[str], tmp_path: Path, complaint: Say) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    assert main([str(model), "--out", str(tmp_path / "out"), *texts, "--search-text", str(short)]) == 3
    assert "short.txt: 10 tokens do not fill one window of 127" in complaint()


def test_one_text_for_two_purposes(model: Path, texts: list[str], tmp_path: Path, complaint: Say) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(Path(texts[1]).read_bytes())
    assert main([str(model), "--out", str(tmp_path / "out"), *texts[:2], "--search-text", str(copy)]) == 2
    assert "are the same text" in complaint()


def test_an_output_folder_of_something_else(model: Path, texts: list[str], tmp_path: Path, complaint: Say) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert main([str(model), "--out", str(tmp_path), *texts]) == 3
    assert "holds something that is no ensemble (thesis.tex)" in complaint()


def test_a_disk_that_fails_names_the_file(
    model: Path, texts: list[str], tmp_path: Path, complaint: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "ensemble.json")

    monkeypatch.setattr(completion, "write_manifest", full)
    assert main([str(model), "--out", str(tmp_path / "out"), *texts]) == 1
    assert "No space left on device" in complaint()
    monkeypatch.undo()
    assert main([str(model), "--out", str(tmp_path / "out"), *texts]) == 0, "the build goes on"


@pytest.mark.parametrize("command", [[], ["eval"], ["sample-text"]])
def test_help_has_examples_and_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "example" in told
    assert "exit codes:" in told
