"""`flexquant-build compare` from end to end, on a checkpoint that is built in a second."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flexquant.engine.manifest import read_manifest
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.compare import command
from support.tiny_checkpoint import TEXT, tiny_checkpoint, write_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def given(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All but --out."""
    folder = tmp_path_factory.mktemp("texts")
    calibration, search = write_texts(folder)
    search.write_text(search.read_text() * 2)
    (folder / "unseen.txt").write_text(TEXT.upper() * 9)
    texts = ["--text", str(folder / "unseen.txt"), "--calibration", str(calibration), "--search-text", str(search)]
    amounts = ["--preset", "quick", "--points", "2", "--draws", "2", "--windows", "4"]
    return [
        "compare",
        str(model),
        "--levels",
        "4,2",
        "--levels",
        "4,3,2",
        "--exhaustive",
        "150",
        "--prune",
        "0.4,0.2",
        *texts,
        *amounts,
    ]


@pytest.fixture(scope="module")
def out(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "comparison"
    assert main([*given, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def record(out: Path) -> Any:
    return json.loads((out / command.JSON_NAME).read_text())


def test_every_method_has_the_same_ends_and_is_compared(record: Any) -> None:
    two, three = record["ensembles"]
    assert [found["name"] for found in (two, three)] == ["exl2 4.0-2.0", "exl2 4.0-3.0-2.0"]
    names = ["sequence", "greedy", "exhaustive", "random", "front-to-back", "back-to-front"]
    assert [method["name"] for method in two["methods"]] == names
    assert [method["name"] for method in three["methods"]] == [name for name in names if name != "exhaustive"]
    for ensemble in (two, three):
        draws = [draw["points"] for method in ensemble["methods"] for draw in method["draws"]]
        assert len({json.dumps([points[0], points[-1]]) for points in draws}) == 1
        for over in ensemble["sequence_area_over"].values():
            low, high = over["interval"]
            assert low <= over["ratio"] <= high


def test_pruning_costs_more_the_more_is_gone_and_keeps_the_smallest_footprint(record: Any) -> None:
    for ensemble in record["ensembles"]:
        whole, *pruned = ensemble["pruned"]
        assert [found["rate"] for found in pruned] == [0.2, 0.4]
        assert whole["dropped_variants"] == 0
        for less, more in pairwise([whole, *pruned]):
            assert less["disk_bytes"] > more["disk_bytes"]
            assert less["footprint_range_bytes"][1] >= more["footprint_range_bytes"][1]
            assert less["footprint_range_bytes"][0] == more["footprint_range_bytes"][0]
            assert more["dropped_variants"] >= more["rate"] * more["variants"]
        for found in ensemble["pruned"]:
            assert [allowed["share_of_range"] for allowed in found["allowed"]] == [1.0, 0.75, 0.5, 0.25]
            assert all(allowed["footprint_bytes"] <= allowed["allowed_bytes"] for allowed in found["allowed"])
            predicted = [allowed["predicted_kl"] for allowed in found["allowed"]]
            assert predicted == sorted(predicted)
        at_best = [found["allowed"][0] for found in ensemble["pruned"]]
        assert at_best[0]["position"] == 0
        assert at_best[0]["predicted_kl"] == at_best[0]["kl"] < at_best[-1]["predicted_kl"]


def test_exhaustive_greedy_is_run_where_it_is_affordable_and_the_rest_is_said(record: Any) -> None:
    two, three = record["ensembles"]
    assert two["exhaustive"]["evaluations"] == 1 + 14 * 15 // 2
    assert three["exhaustive"] is None
    assert any("Exhaustive greedy was not run: it takes" in said for said in three["findings"])
    assert any("Exhaustive greedy took 106 evaluations" in said for said in two["findings"])


def test_the_ends_of_an_ensemble_are_rungs_of_the_ladder(record: Any, out: Path) -> None:
    rungs = {rung["bits"]: rung for rung in record["ladder"]["rungs"]}
    assert list(rungs) == [4 - step / 4 for step in range(9)]
    two = record["ensembles"][0]
    manifest = read_manifest(out / "ensembles" / "4.0-2.0")
    ends = [two["methods"][0]["draws"][0]["points"][at] for at in (0, -1)]
    for bits, end in zip((4.0, 2.0), ends, strict=True):
        assert rungs[bits]["footprint_bytes"] == end["footprint_bytes"]
        assert rungs[bits]["perplexity"] == pytest.approx(end["perplexity"], rel=1e-5)
    assert two["beside_ladder"][0]["ratio"] == pytest.approx(1, rel=1e-5)
    assert len(two["beside_ladder"]) == len(manifest.sequences["projection"].quality)
    assert two["ladder_bytes"] > 2 * two["storage"]["once_bytes"]


def test_the_downstream_figures_are_shares(record: Any) -> None:
    assert record["completion_choice_questions"] == 4
    for ensemble in record["ensembles"]:
        shares = [
            found["accuracy"] for name in ("next_token_accuracy", "completion_choice") for found in ensemble[name]
        ]
        assert all(0 <= share <= 1 for share in shares)


def test_the_page_needs_nothing_else_and_says_every_finding(out: Path, record: Any) -> None:
    text = (out / command.PAGE_NAME).read_text()
    assert not re.search(r"https?:|//|\bsrc=|url\(|@import|<script|<link", text)
    root = ElementTree.fromstring(text)
    said = " ".join("".join(root.itertext()).split())
    for ensemble in record["ensembles"]:
        for finding in ensemble["findings"]:
            assert finding in said
    anchors = {element.get("id") for element in root.iter()}
    assert all(str(link.get("href")).removeprefix("#") in anchors for link in root.iter("a"))
    assert len(list(root.iter("svg"))) == 4 + 2 * 6
    assert said.count("Pruned at several rates") == 2


def test_the_same_command_measures_nothing_again(out: Path, given: list[str], record: Any) -> None:
    lines = {path: path.read_bytes() for path in (out / "measured").rglob("*.jsonl")}
    assert main([*given, "--out", str(out)]) == 0
    assert {path: path.read_bytes() for path in (out / "measured").rglob("*.jsonl")} == lines
    again = json.loads((out / command.JSON_NAME).read_text())
    for ensemble in (*again["ensembles"], *record["ensembles"]):
        ensemble["measured"].pop("cost", None)
    assert again == record


def test_a_killed_comparison_goes_on(out: Path, given: list[str], record: Any) -> None:
    """Half of what was measured is lost, with half a line at the end."""
    path = out / "measured" / "4.0-2.0" / "unseen.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[: len(whole) // 2]) + "\n" + whole[-1][:20])
    assert main([*given, "--out", str(out)]) == 0
    again = json.loads((out / command.JSON_NAME).read_text())
    assert again["ensembles"][0]["methods"] == record["ensembles"][0]["methods"]


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, out: Path, model: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", given[given.index("--text") + 1]]
    assert main(["compare", str(model), *text, "--out", str(tmp_path)]) == 2
    assert "neither --levels nor --ensemble was given" in capsys.readouterr().err
    seen = ["--text", given[given.index("--search-text") + 1]]
    ready = ["--ensemble", str(out / "ensembles" / "4.0-2.0"), "--preset", "quick", "--out", str(tmp_path / "seen")]
    calibration = ["--calibration", given[given.index("--calibration") + 1]]
    assert main(["compare", str(model), *seen, *ready, *calibration]) == 2
    assert "the sequence was searched on it" in capsys.readouterr().err
    other = [*given, "--out", str(out)]
    assert main([*other, "--group-size", "64"]) == 3
    assert "group size" in capsys.readouterr().err


def test_a_ready_ensemble_of_another_search_text_is_compared_without_exhaustive_greedy(
    out: Path, model: Path, given: list[str]
) -> None:
    """It finds the ladder and the figures of the earlier comparison, and replaces its report."""
    known = given[given.index("--text") : given.index("--search-text")] + given[given.index("--preset") :]
    ready = ["--ensemble", str(out / "ensembles" / "4.0-2.0"), "--out", str(out)]
    assert main(["compare", str(model), *known, *ready]) == 0
    [found] = json.loads((out / command.JSON_NAME).read_text())["ensembles"]
    assert any("the text of this ensemble's search was not given" in said for said in found["findings"])
