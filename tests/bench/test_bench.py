"""The bench itself, with a tiny model: it runs, and its rows have what readers of the results need."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.our_worker import OurEngine
from bench.worker import ROOT, Worker, WorkerError
from support.ensembles import Shape, random_ensemble


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    done = bench(
        *("decode", "--quick", "--json", "--no-peer", "--models", str(folder)),
        *("--markdown", str(folder / "results.md")),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"markdown": (folder / "results.md").read_text()}


def test_rows_have_ours_peer_and_their_ratio(report: dict[str, Any]) -> None:
    compared = 0
    for row in report["rows"]:
        # Nothing but a share can be nothing: on a quiet machine no core is busy with other programs.
        assert row["ours"] > 0 or (row["unit"].startswith("%") and row["ours"] == 0)
        assert row["ours_range"][0] <= row["ours"] <= row["ours_range"][1]
        if row["peer"] is None:
            assert row["ratio"] is None
            assert row["against"]
        else:
            compared += 1
            assert row["ratio"] == row["ours"] / row["peer"]
    assert compared >= 4  # memory bandwidth, torch, our own widths


@pytest.mark.e2e
def test_serving_is_measured_over_http(tmp_path: Path) -> None:
    done = bench("serve", "--quick", "--json", "--no-peer", "--models", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["rows"] if row["suite"] == "serve"]
    for part in ("one stream", "four streams", "shared prefix", "p99 time between tokens", "pages are free"):
        found = [row for row in rows if part in row["name"]]
        assert found, f"no row about {part}"
        assert all(row["ours"] > 0 for row in found)
    assert {row["against"] for row in rows if row["peer"] is None and "safe points" not in row["name"]} == {
        "llama.cpp was left out"
    }


def test_without_the_peer_its_rows_say_why(report: dict[str, Any]) -> None:
    rows = [row for row in report["rows"] if row["name"] == "decode, 4 bits" and row["unit"] == "tokens/s"]
    assert [(row["peer"], row["against"]) for row in rows] == [(None, "llama.cpp was left out")]


def test_calibration_stands_beside_the_suites(report: dict[str, Any]) -> None:
    names = [row["name"] for row in report["rows"] if row["suite"] == "calibration"]
    assert any("read bandwidth" in name for name in names)
    assert any("process spawn" in name for name in names)
    assert any("busy" in name for name in names)


def test_the_markdown_block_has_conditions_and_rows(report: dict[str, Any]) -> None:
    assert report["markdown"].startswith("<!-- bench decode -->")
    assert f"- date: {report['conditions']['date']}" in report["markdown"]
    assert "| decode, 4 bits |" in report["markdown"]


def test_no_prompt_is_measured_that_the_engine_has_computed_before(tmp_path: Path) -> None:
    engine = OurEngine()
    engine.open(str(random_ensemble(tmp_path / "tiny", Shape(vocab=1000))), threads=1, kv_pages=32)
    for sequences in (1, 2, 1):
        assert engine.start(sequences, tokens=300, room=1) > 0
        assert [generation.cached_tokens for generation in engine._running] == [0] * sequences
    engine.stop()


def test_an_unknown_suite_is_refused() -> None:
    done = bench("decoed")
    assert done.returncode == 2
    assert "decoed" in done.stderr
    assert "prefill" in done.stderr


def test_a_worker_tells_what_failed_and_goes_on() -> None:
    with Worker(sys.executable, "bench.torch_worker") as worker:
        with pytest.raises(WorkerError, match="KeyError: 'fly'"):
            worker.ask("fly")
        worker.ask("open", shapes=[(64, 64)], threads=1, least_bytes=1)
        assert worker.ask("run", rounds=1) > 0


def test_a_worker_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with Worker(sys.executable, "bench.no_such_worker") as worker, pytest.raises(WorkerError, match="ended"):
        worker.ask("anything")
