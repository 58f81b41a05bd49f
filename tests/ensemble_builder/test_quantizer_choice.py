"""Whose program makes the levels: by flags, and by what a machine has."""

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from flexquant.engine.errors import UsageError
from flexquant.engine.exllamav2.facts import GpuFacts
from flexquant.ensemble_builder import build as build_module
from flexquant.ensemble_builder import quantizer_choice as module
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.exllamav2.convert_model import convert_model
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantizer_choice import Asked, choose_quantizer
from support.converting import python_path, stand_in
from support.fake_device import fake_card
from support.tiny_checkpoint import tiny_checkpoint, write_texts

GIB = 1 << 30


def machine(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(module, "gpu_facts", lambda: GpuFacts(exllamav2="0.3.2", missing=missing))


def choice(asked: Asked, levels: Sequence[float] = (8, 4), own_alone: str | None = None, device: str = "cuda") -> str:
    """What is chosen, and what is said about it."""
    said = io.StringIO()
    found = choose_quantizer(asked, levels, own_alone, device, Progress(said, environment={}))
    return f"{found}: {said.getvalue().strip()}" if said.getvalue() else found


def test_auto_takes_the_converter_where_a_card_and_exllamav2_are(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert choice("auto").startswith("exllamav2: exllamav2's converter makes the levels on the GPU")
    assert choice("auto", device="cpu") == choice("own") == "own"
    assert choice("exllamav2") == "exllamav2"
    machine(monkeypatch, "exllamav2 0.3.2 is not installed")
    assert choice("auto") == "own"


@pytest.mark.parametrize(
    ("levels", "own_alone", "reason"),
    [((8, 4), "--nested", "--nested"), ((8, 2), None, "2 bits: exllamav2's converter makes levels of 2.1125 to 8")],
)
def test_auto_says_why_it_takes_ours(
    monkeypatch: pytest.MonkeyPatch, levels: Sequence[float], own_alone: str | None, reason: str
) -> None:
    machine(monkeypatch)
    found = choice("auto", levels, own_alone)
    assert found.startswith("own: levels are quantized on the CPU")
    assert reason in found


def test_what_was_asked_for_and_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    with pytest.raises(UsageError, match="--quantizer exllamav2 cannot be used with --nested"):
        choice("exllamav2", own_alone="--nested")
    with pytest.raises(UsageError, match="2 bits: exllamav2's converter makes levels of"):
        choice("exllamav2", (8, 2))
    machine(monkeypatch, "torch sees no NVIDIA GPU", "ninja is missing")
    with pytest.raises(UsageError, match="cannot run here: torch sees no NVIDIA GPU; ninja is missing") as refused:
        choice("exllamav2")
    assert "flexquant[cuda]" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        (["--nested"], "--quantizer exllamav2 cannot be used with --nested"),
        (["--group-size", "64"], "--quantizer exllamav2 cannot be used with --group-size"),
        (["--method", "any-precision", "--levels", "5,3"], "cannot be used with --method any-precision"),
    ],
)
def test_options_that_the_converter_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: Sequence[str], refusal: str
) -> None:
    model = tiny_checkpoint(tmp_path / "tiny")
    assert main([str(model), "--levels", "8,4", "--quantizer", "exllamav2", "--device", "cpu", *flags]) == 2
    assert refusal in capsys.readouterr().err


def test_levels_that_are_there_need_no_quantizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from-checkpoints", "a,b", "--out", str(tmp_path / "out"), "--quantizer", "own"]) == 2
    assert "--quantizer cannot be used with --from-checkpoints" in capsys.readouterr().err


def test_a_machine_with_a_card_builds_on_it_without_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels by the converter's stand-in, measured on the fake card."""
    machine(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.setattr(build_module, "convert_model", functools.partial(convert_model, command=stand_in()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * GIB, 8 * GIB))
    calibration, search = write_texts(tmp_path)
    texts = ["--calibration", str(calibration), "--search-text", str(search)]
    out = tmp_path / "out"
    with fake_card():
        made = main(
            [
                str(tiny_checkpoint(tmp_path / "tiny")),
                "--levels",
                "4,2.5",
                "--preset",
                "quick",
                *texts,
                "--out",
                str(out),
            ]
        )
    assert made == 0
    manifest = json.loads((out / "ensemble.json").read_text())
    assert manifest["quantization"]["quantizer"] == "exllamav2 0.3.2's converter"
    assert manifest["evaluation"]["reference_perplexity"] > 1
