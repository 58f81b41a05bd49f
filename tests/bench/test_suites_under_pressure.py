"""The suites under pressure run, with a small model, and their rows have what readers of the results need."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.worker import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="they look into /proc"),
]


def rows_of(suite: str, models: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", suite, "--quick", "--json", "--no-peer", "--models", str(models)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return [row for row in found if row["suite"] == suite]


def test_reaction(tmp_path: Path) -> None:
    rows = rows_of("reaction", tmp_path)
    for part in ("from crossing R_low", "without giving back", "from the order", "p99 time between tokens"):
        assert any(part in row["name"] for row in rows), part
    (order,) = (row for row in rows if "from the order" in row["name"])
    assert order["rounds"] == 5
    assert 0 < order["ours"] < 20


def test_reaction_of_a_nested_model(tmp_path: Path) -> None:
    rows = rows_of("nested-reaction", tmp_path)
    (order,) = (row for row in rows if "from the order" in row["name"])
    assert order["against"] == "two stores"
    assert order["rounds"] == 2
    assert 0 < order["ours"] < 20
    assert 0 < order["theirs"] < 20
    assert sum("time between tokens" in row["name"] for row in rows) == 1


def test_pressure_without_the_peer_says_why(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in rows_of("pressure", tmp_path)}
    assert {row["against"] for row in rows.values()} == {"llama.cpp was left out"}
    assert rows["pressure, tokens of answers that were cut off"]["ours"] == 0
    assert rows["pressure, longest time without a token, from the hog's first byte on"]["ours"] > 0
    assert rows["pressure, given back while the hog stays: anonymous memory"]["ours"] > 0
