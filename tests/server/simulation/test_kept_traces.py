"""The control law against every load trace of the repository: it neither flaps nor comes late."""

import json
from pathlib import Path

import pytest

from flexquant.server.simulation.command import main

FOLDER = Path(__file__).parents[2] / "assets" / "traces"
MACHINES: dict[str, list[str]] = {
    "as it is": [],
    "another seed, readings wrong by 20 MiB": ["--seed", "7", "--noise", "20M"],
    "half of what is released stays until the heap is trimmed": ["--retention", "0.5"],
    "one reading in twenty lost": ["--lost", "0.05"],
    "greedy": ["--profile", "greedy"],
    "polite": ["--profile", "polite"],
    "an hour": ["--seconds", "3600"],
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("trace", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_at_most_so_many_reversals_and_one_late_tick(
    trace: Path, machine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(trace), "--json", *MACHINES[machine]]) == 0
    for run in json.loads(capsys.readouterr().out)["runs"]:
        assert run["reversals"] <= 5 + run["seconds"] / 600
        assert run["late_ticks"] <= 1


@pytest.mark.parametrize("stalled", [0.08, 0.2])
def test_stalls_of_others_neither(stalled: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that is read all the time: bytes look fine, and tasks wait every other minute."""
    rows = [{"at": 0.0, "bytes": 11 << 30, "some": 0.0, "full": 0.0}]
    for minute in range(1, 15):
        for share in (rows[-1]["some"], stalled if minute % 2 else 0.0):
            rows.append({"at": 60.0 * minute, "bytes": 11 << 30, "some": share, "full": share / 4})
    header = {"flexquant_trace": 1, "kind": "load", "name": "stalls", "seconds": 900.0}
    path = tmp_path / "stalls.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [header, *rows]))
    assert main([str(path), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["reversals"] <= 5 + 900 / 600
    assert run["footprint_share"] < 0.9, "stalls did not matter"
