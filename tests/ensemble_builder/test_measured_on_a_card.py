"""Every command that measures finds the same on a card as on the host; see `support.fake_device`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexquant.engine.errors import UsageError
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.device import Kept, choose_device, has_room
from support.fake_device import CARD, fake_card
from support.tiny_checkpoint import tiny_checkpoint, write_texts

GIB = 1 << 30
KINDS = {
    "exl2": ["--levels", "8,3"],
    "nested": ["--levels", "8,4", "--nested"],
    "sliced": ["--levels", "8,3", "--max-step", "2K"],
    "any-precision": ["--method", "any-precision", "--levels", "5,4,3"],
}
HOST = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, three texts, and an ensemble."""
    folder = tmp_path_factory.mktemp("models")
    tiny_checkpoint(folder / "tiny")
    calibration, _ = write_texts(folder)
    (folder / "unseen.txt").write_text(" ".join(reversed(calibration.read_text().split(" "))))
    assert main([*build(folder, folder / "ensemble"), *KINDS["exl2"]]) == 0
    return folder


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card that has 2 GiB free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * GIB, 8 * GIB))


def build(folder: Path, out: Path) -> list[str]:
    """Arguments of a build."""
    texts = ["--calibration", str(folder / "calibration.txt"), "--search-text", str(folder / "search.txt")]
    return [str(folder / "tiny"), *texts, "--budget-evals", "0", "--out", str(out)]


def on_card(arguments: Sequence[str]) -> int:
    """Run a command on the card."""
    with fake_card():
        return main([*arguments, "--device", "cuda"])


def on_host(arguments: Sequence[str]) -> int:
    """Run a command on the host."""
    return main([*arguments, "--device", "cpu"])


def alike(here: Any, there: Any) -> bool:
    """Whether two JSON values are the same but for the last digits of their figures."""
    if isinstance(here, dict):
        return here.keys() == there.keys() and all(alike(here[key], there[key]) for key in here)
    if isinstance(here, list):
        return len(here) == len(there) and all(map(alike, here, there))
    return bool(here == (pytest.approx(there, rel=1e-3, abs=1e-6) if isinstance(here, float) else there))


@pytest.mark.parametrize("kind", KINDS)
def test_a_search(models: Path, tmp_path: Path, kind: str) -> None:
    manifests = []
    for run, out in ((on_host, tmp_path / "host"), (on_card, tmp_path / "card")):
        assert run([*build(models, out), *KINDS[kind]]) == 0
        manifests.append(json.loads((out / "ensemble.json").read_text()))
    here, there = manifests
    assert here["files"] == there["files"]
    for part in ("sequences", "sensitivities", "evaluation"):
        assert alike(here.get(part), there.get(part))


def test_an_ensemble_of_levels_that_are_there(models: Path, tmp_path: Path) -> None:
    levels = ",".join(str(models / "ensemble" / "levels" / level) for level in ("8.0", "3.0"))
    text = ["--search-text", str(models / "search.txt"), "--budget-evals", "0"]
    manifests = []
    for run, out in ((on_host, tmp_path / "host"), (on_card, tmp_path / "card")):
        assert run(["--from-checkpoints", levels, "--out", str(out), *text]) == 0
        manifests.append(json.loads((out / "ensemble.json").read_text())["sequences"])
    assert alike(*manifests)


@pytest.mark.parametrize("further", [[], ["--checkpoint", "tiny"]], ids=["by position 0", "by the unquantized model"])
def test_positions(models: Path, capsys: pytest.CaptureFixture[str], further: Sequence[str]) -> None:
    checkpoint = [str(models / part) if part == "tiny" else part for part in further]
    found = []
    for run in (on_host, on_card):
        capsys.readouterr()
        assert run(["eval", str(models / "ensemble"), "--text", str(models / "unseen.txt"), *checkpoint, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert len(found[0]["rows"]) == 7 + bool(further)
    assert alike(*found)


def test_a_report(models: Path, tmp_path: Path) -> None:
    found = []
    for run, out in ((on_host, tmp_path / "host"), (on_card, tmp_path / "card")):
        assert run(["report", str(models / "ensemble"), "--text", str(models / "unseen.txt"), "--out", str(out)]) == 0
        found.append(json.loads((out / "report.json").read_text())["report"]["methods"])
    assert alike(*found)


def test_a_comparison(models: Path, tmp_path: Path) -> None:
    found = []
    for run, out in ((on_host, tmp_path / "host"), (on_card, tmp_path / "card")):
        what = ["--levels", "4,3", "--prune", "0.2", "--exhaustive", "0", "--preset", "quick", "--out", str(out)]
        texts = build(models, out)[1:5]
        assert run(["compare", str(models / "tiny"), "--text", str(models / "unseen.txt"), *what, *texts]) == 0
        record = json.loads((out / "compare.json").read_text())
        [ensemble] = record["ensembles"]
        found.append(
            [record["ladder"]["rungs"], *(ensemble[part] for part in ("beside_ladder", "completion_choice", "pruned"))]
        )
    assert alike(*found)


def test_text_that_the_model_makes_up(models: Path, tmp_path: Path) -> None:
    for run, out in ((on_host, "host.txt"), (on_card, "card.txt")):
        sample = ["sample-text", str(models / "tiny"), "--tokens", "200", "--seed", "3"]
        assert run([*sample, "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "host.txt").read_text() == (tmp_path / "card.txt").read_text()


def test_text_of_a_model_that_the_card_has_no_room_for_comes_from_the_host(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (GIB, 8 * GIB))
    sample = ["sample-text", str(models / "tiny"), "--tokens", "20", "--seed", "3", "--out", str(tmp_path / "out.txt")]
    assert main([*sample, "--device", "cuda"]) == 0
    assert "the GPU has no room for 1.1 GB, so the model writes its text on the CPU" in capsys.readouterr().err


def test_a_card_without_memory_is_told_in_words(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("flexquant.ensemble_builder.eval_command.evaluate", full)
    assert on_card(["eval", str(models / "ensemble"), "--text", str(models / "unseen.txt")]) == 1
    said = capsys.readouterr().err
    assert "error: the GPU's memory was not enough" in said
    assert "--device cpu" in said


def test_one_process_measures_on_a_card(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*build(models, tmp_path / "out"), "--workers", "2", "--device", "cuda"]) == 2
    assert "one process alone measures on a GPU" in capsys.readouterr().err


def test_the_choice_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (choose_device("auto"), choose_device("cuda"), choose_device("cpu")) == ("cuda", "cuda", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match=r"--device cuda: torch .* (was built without CUDA|sees no NVIDIA GPU)"):
        choose_device("cuda")


def test_what_is_kept_fits_the_free_memory_of_the_card() -> None:
    assert Kept.on(HOST, 3) == Kept()
    kept = Kept.on(CARD, 3)
    assert kept.states + 3 * kept.weights < 0.7 * 2 * GIB
    assert has_room(CARD, GIB)
    assert not has_room(CARD, 2 * GIB)
    assert has_room(HOST, 1 << 50)


def test_the_fake_card_refuses_what_a_card_refuses() -> None:
    with fake_card() as card:
        here, there = torch.ones(2, 2), torch.ones(2, 2, device=card)
        assert there.device == here.to("cuda").device == card
        assert there[torch.tensor([0])].device == card
        assert (there + torch.tensor(1)).tolist() == [[2, 2], [2, 2]]
        for mixed in (torch.add, torch.mm, torch.cat):
            pair = ([here, there],) if mixed is torch.cat else (here, there)
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mixed(*pair)
        with pytest.raises(RuntimeError, match="same device"):
            here[torch.zeros(1, dtype=torch.int64, device=card)]
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
