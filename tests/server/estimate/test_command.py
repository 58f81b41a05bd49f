"""flexquant-estimate: figures for ensembles and for what could become one, and whether they fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexquant.engine.manifest import read_manifest
from flexquant.ensemble_builder.report.sizes import storage_of
from flexquant.server.estimate.command import main
from flexquant.server.estimate.figures import Fit
from flexquant.server.model_source import demo_folder
from flexquant.server.start_plan import Demand, Room
from support.daemon import clean_environment
from support.fake_model import DOCS_LLAMA
from support.hub import Repository, files_of, running_hub

MIB = 1 << 20


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLEXQUANT_")]:
        monkeypatch.delenv(name)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """What the command says as JSON."""
    assert main([*arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_demo_and_what_it_was_built_of_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    built = told(capsys, "demo")
    planned = told(capsys, str(DOCS_LLAMA), "--levels", "8,3")
    assert (built["built"], planned["built"]) == (True, False)
    differing = {"built", "disk_bytes", "fit"}
    assert {name: value for name, value in built.items() if name not in differing} == {
        name: value for name, value in planned.items() if name not in differing
    }
    manifest = read_manifest(demo_folder())
    storage = storage_of(demo_folder(), manifest)
    assert built["disk_bytes"] == storage.disk_bytes
    assert planned["disk_bytes"] == pytest.approx(storage.once_bytes, rel=0.05)  # settings and tokenizers are left out
    footprints = manifest.sequences["projection"].footprint_bytes
    assert built["footprint_range_bytes"] == [footprints[-1], footprints[0]]
    assert built["kv_bytes"] == 1000 * 2 * 8 * 4 * 32 * 2  # keys and values of 8 layers: 4 heads of 32, in 2 bytes


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DOCS_LLAMA / "config.json"), "--levels", "8,4,2", "--nested", "--max-step", "64K"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("docs-llama: llama, 6.6 M parameters (not built; computed from its config)\n")
    assert "levels    8.0, 4.0, 2.0 bits, nested\n" in out
    assert " KiB at most\n" in out
    assert "of KV cache for each 1,000 tokens (at most 2,048)" in out
    assert "\nnow       fits: " in out


def test_what_does_not_fit_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEXQUANT_MEMORY_BUDGET", "1MiB")
    assert main(["demo"]) == 0
    assert "does not fit: not enough memory: at its smallest position 57" in capsys.readouterr().out
    fit = told(capsys, "demo")["fit"]
    assert isinstance(fit, dict)
    assert (fit["fits"], fit["position"]) == (False, None)


def test_the_daemon_would_start_where_the_estimate_says() -> None:
    demand = Demand(weights=[20 * MIB, 10 * MIB], working=MIB, kv_page=1 << 16, page_tokens=64, context=512)
    assert Fit.of(demand, Room(100 * MIB, 50 * MIB), 4) == Fit(True, 100 * MIB, 0, 512, None)
    assert Fit.of(demand, Room(20 * MIB, 15 * MIB), 4).position == 1
    short = Fit.of(demand, Room(5 * MIB, 0), 4)
    assert not short.fits
    assert "are missing" in (short.why_not or "")


def test_of_a_model_on_the_hub_only_the_config_is_downloaded(tmp_path: Path) -> None:
    files = files_of(DOCS_LLAMA)
    with running_hub({"org/model": Repository({"main": files})}) as hub:
        ended = subprocess.run(
            [sys.executable, "-m", "flexquant.server.estimate", "org/model", "--json"],
            capture_output=True,
            text=True,
            env=clean_environment(hub.environment(tmp_path)),
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    found = json.loads(ended.stdout)
    assert found["download_bytes"] == len(files["model.safetensors"])
    assert (found["model"], found["built"]) == ("org/model", False)
    assert "model.safetensors" not in hub.sent


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["/no/such/folder"], 3, "neither an ensemble"),
        (["demo", "--levels", "8,4"], 2, "--levels: "),
        (["demo", "--nested"], 2, "--nested: "),
        ([str(DOCS_LLAMA), "--levels", "4,8"], 2, "must fall"),
        ([str(DOCS_LLAMA), "--levels", "4,3", "--nested"], 2, "less than 2 apart"),
        ([str(demo_folder() / "levels" / "8.0")], 3, "single EXL2 checkpoint"),
    ],
)
def test_mistakes_are_told(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("flexquant-estimate: ")
    assert "hint: " in err
