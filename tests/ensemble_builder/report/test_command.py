"""`flexquant-build report` from end to end, on a checkpoint that is built in a second."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flexquant.engine.manifest import read_manifest
from flexquant.ensemble_builder.cli import main
from support.ensembles import Shape, random_ensemble
from support.tiny_checkpoint import TEXT, tiny_checkpoint, write_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    (folder / "report.txt").write_text(TEXT.upper() * 5)
    return folder


@pytest.fixture(scope="module")
def ensemble(model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ensemble"
    given = ["--calibration", str(texts / "calibration.txt"), "--search-text", str(texts / "search.txt")]
    assert main([str(model), "--levels", "8,3", "--out", str(out), "--budget-evals", "0", *given]) == 0
    return out


@pytest.fixture(scope="module")
def out(ensemble: Path, model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reported") / "new"
    given = ["--text", str(texts / "report.txt"), "--checkpoint", str(model), "--points", "4", "--draws", "2"]
    assert main(["report", str(ensemble), *given, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def record(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def test_all_orders_are_measured_between_the_same_ends(record: Any) -> None:
    methods = record["report"]["methods"]
    assert [method["name"] for method in methods] == ["sequence", "greedy", "random", "front-to-back", "back-to-front"]
    draws = [draw for method in methods for draw in method["draws"]]
    assert len(draws) == 6
    assert len({json.dumps([draw["points"][0], draw["points"][-1]]) for draw in draws}) == 1
    assert all(4 <= len(draw["points"]) <= 6 for draw in draws)
    for method in methods:
        assert method["area_range"][0] <= method["area_under_kl"] <= method["area_range"][1]


def test_figures_are_those_of_eval(
    record: Any, ensemble: Path, model: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = record["report"]["methods"][0]["draws"][0]["points"]
    positions = ",".join(str(point["position"]) for point in points)
    given = ["--text", str(texts / "report.txt"), "--checkpoint", str(model), "--positions", positions, "--json"]
    assert main(["eval", str(ensemble), *given]) == 0
    [reference, *rows] = json.loads(capsys.readouterr().out)["rows"]
    assert rows == points
    assert reference["perplexity"] == record["report"]["measured"]["reference_perplexity"]


def test_what_the_build_recorded_is_kept(record: Any, ensemble: Path) -> None:
    built = json.loads((ensemble / "report.json").read_text())
    assert {name: record[name] for name in built} == built
    assert record["report"]["search"]["evaluations"] == built["search"]["evaluations"]
    assert record["report"]["search"]["minutes"] == built["search"]["minutes"]


def test_greedy_goes_by_the_builds_sensitivities(record: Any) -> None:
    """A search without a budget is greedy by sensitivity, so both have the same figures."""
    report = record["report"]
    assert report["measured"]["sensitivities"] == "build"
    own, greedy = report["methods"][:2]
    assert own["draws"] == greedy["draws"]
    assert report["findings"][0].startswith("Greedy by sensitivity is the same order as the ensemble's sequence")


def test_granularity_and_storage(record: Any, ensemble: Path) -> None:
    report = record["report"]
    footprints = read_manifest(ensemble).sequences["projection"].footprint_bytes
    span = footprints[0] - footprints[-1]
    assert report["granularity"]["mean_bytes"] == pytest.approx(span / (len(footprints) - 1))
    assert report["ladder"]["granularity"]["mean_bytes"] == pytest.approx(span / 20)
    storage = report["storage"]
    assert storage["once_bytes"] <= storage["disk_bytes"] < sum(storage["stores"].values())  # common tensors are linked


def test_the_page_needs_nothing_else(out: Path) -> None:
    text = (out / "report.html").read_text()
    assert not re.search(r"https?:|//|\bsrc=|\bhref=|url\(|@import|<script|<link", text)

    tags = [element.tag for element in ElementTree.fromstring(text).iter()]
    assert (tags.count("svg"), tags.count("h1"), tags.count("script")) == (2, 1, 0)


def test_the_page_shows_every_order_and_every_finding(out: Path, record: Any) -> None:
    root = ElementTree.fromstring((out / "report.html").read_text())
    said = " ".join("".join(root.itertext()).split())
    for finding in record["report"]["findings"]:
        assert finding in said
    labels = [text.text for text in root.iter("text") if "label" in str(text.get("class"))]
    names = ["the ensemble's sequence", "greedy by sensitivity", "random, mean of 2", "front to back", "back to front"]
    assert labels == names * 2


def test_by_default_the_report_lies_in_the_ensemble_which_still_opens(
    tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one has no sensitivities and no record of a build."""
    made = random_ensemble(tmp_path / "made", Shape(layers=1, context=64))
    given = ["--text", str(texts / "report.txt"), "--windows", "1", "--points", "1", "--orders", "greedy"]
    assert main(["report", str(made), *given]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("order ")
    assert "measuring sensitivities" in captured.err
    report = json.loads((made / "report.json").read_text())["report"]
    assert (report["measured"]["reference"], report["measured"]["windows"]) == ("position 0", 1)
    assert report["measured"]["sensitivities"] == "report text"
    assert report["search"]["minutes"] is None
    assert "That favours it." in (made / "report.html").read_text()
    assert main(["report", str(made), *given]) == 0
    assert sorted(path.name for path in made.iterdir()) == ["ensemble.json", "levels", "report.html", "report.json"]


@pytest.mark.parametrize(("name", "how"), [("search", "the sequence was searched"), ("calibration", "were calibrated")])
def test_a_text_that_the_build_has_seen_is_refused(
    ensemble: Path, texts: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(ensemble), "--text", str(texts / f"{name}.txt")]) == 2
    captured = capsys.readouterr().err
    assert how in captured
    assert "hint: Give a third text." in captured


def test_what_cannot_be_used_is_said_and_nothing_is_replaced(
    tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", str(texts / "report.txt")]
    made = random_ensemble(tmp_path / "made", Shape(layers=1))
    (made / "report.json").write_text("{")
    assert main(["report", str(made), *text]) == 3
    assert "report.json: cannot be read" in capsys.readouterr().err
    (made / "report.json").write_text("[]")
    assert main(["report", str(made), *text]) == 3
    assert "is not a JSON object" in capsys.readouterr().err
    assert (made / "report.json").read_text() == "[]"
    (made / "report.json").unlink()
    (tmp_path / "file").touch()
    assert main(["report", str(made), *text, "--out", str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main(["report", str(made), *text, "--orders", "best"]) == 2
    assert main(["report", str(tmp_path), *text]) == 3
    still = random_ensemble(tmp_path / "still", Shape(layers=1), transitions=[])
    assert main(["report", str(still), *text]) == 2
    captured = capsys.readouterr().err
    assert "the sequence has no transitions" in captured
    assert "Traceback" not in captured
