"""flexquant-simulate: loads in closed loop, dumps replayed, errors without a traceback."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.sample import MemoryReading, Sample
from flexquant.server.controller.state import State
from flexquant.server.controller.trace import Dump, DumpHeader, Snapshot, TickRow, dump_lines, tick_row
from flexquant.server.simulation.command import main

TRACES = Path(__file__).parents[2] / "assets" / "traces"
FOOTPRINTS = (300 << 20, 200 << 20, 100 << 20)


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main([*arguments, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert isinstance(runs, list)
    return runs


def dump_file(path: Path) -> Path:
    """A short recording with a shrink."""
    law, state, rows = Law(Parameters(), FOOTPRINTS), State(), []
    for index, available in enumerate((9 << 30, 9 << 30, 700 << 20, 100 << 20)):
        sample = Sample((MemoryReading("host", available, 16 << 30),), (), 0, 0, False, FOOTPRINTS[0])
        before = state
        state, orders = law.decide(before, sample, float(index))
        rows.append(tick_row(float(index), before, sample, orders, state))
    header = DumpHeader("0.1.0", 5e8, 4.0, Parameters(), FOOTPRINTS)
    path.write_text("\n".join(dump_lines(Dump(header, (Snapshot(0.0, State()), *rows)))), encoding="ascii")
    return path


@pytest.mark.parametrize("path", sorted(TRACES.iterdir()), ids=lambda path: path.stem)
def test_the_law_keeps_its_promise_under_every_trace(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in simulated(capsys, str(path)):
        assert run["reversals"] <= run["bound"], run
        assert run["within_bound"]
        assert run["seconds"] == pytest.approx(900, abs=2)


def test_two_daemons_are_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    hog = str(TRACES / "hog.jsonl")
    names = [run["trace"] for run in simulated(capsys, hog, "--daemons", "2", "--seconds", "30")]
    assert names == ["hog 1", "hog 2"]


def test_options_reach_the_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    step = str(TRACES / "step.jsonl")
    usual = simulated(capsys, step, "--seconds", "120")[0]
    for option in (
        ("--profile", "polite"),
        ("--latency", "2"),
        ("--lost", "0.5"),
        ("--noise", "200M"),
        ("--retention", "1"),
        ("--seconds", "50"),
    ):
        assert simulated(capsys, step, "--seconds", "120", *option)[0] != usual, option
    assert simulated(capsys, step, "--seconds", "120")[0] == usual


def test_people_get_plots_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(TRACES / "hog.jsonl"), "--seconds", "100"]) == 0
    out = capsys.readouterr().out
    for part in (
        "hog: available (least of each column), GiB",
        "footprint, GiB",
        "█",
        "reversals",
        " of 5.2",
        "seconds in each phase",
    ):
        assert part in out


def test_a_terminal_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main([str(TRACES / "hog.jsonl"), "--seconds", "100"]) == 0
    sys.stdout.flush()
    assert b"#" in raw.getvalue()


def test_a_dump_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dump_file(tmp_path / "incident.jsonl")
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "incident.jsonl: replayed, 4 ticks decide the same\n" in out
    assert "footprint, MiB" in out


def test_a_replay_that_differs_says_where_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dump_file(tmp_path / "incident.jsonl")
    lines = path.read_text(encoding="ascii").splitlines()
    assert '"orders":[{' in lines[5]
    changed = json.loads(lines[5])
    changed["orders"] = []
    path.write_text("\n".join([*lines[:5], json.dumps(changed)]), encoding="ascii")
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "3 ticks decide the same, then row 5 at 3.000 s does not" in out
    assert "recorded: ()" in out
    assert "replayed: (" in out
    assert "Move(position=2, urgent=True)" in out
    assert main([str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["runs"][0]["replay"]["difference"]["row"] == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: "),
        (b"\xff\xfe\x00", "cannot be read: "),
        (b"hello", "line 1: no JSON"),
        (b"", "no FlexQuant trace"),
    ],
)
def test_files_that_are_no_traces(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 3
    err = capsys.readouterr().err
    assert err.startswith("flexquant-simulate: ")
    assert said in err


def test_a_dump_without_any_reading_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = Sample((), ("host",), 0, 0, False, FOOTPRINTS[0])
    header = DumpHeader("0.1.0", 5e8, 4.0, Parameters(), FOOTPRINTS)
    state, orders = Law(Parameters(), FOOTPRINTS).decide(State(), sample, 0.0)
    row = replace(TickRow(0.0, sample, orders, None, state.phase))
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(dump_lines(Dump(header, (Snapshot(0.0, State()), row)))), encoding="ascii")
    assert main([str(path)]) == 3
    assert "no source of memory answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["x", "--profile", "rude"], ["x", "--lost", "2"], ["x", "--noise", "loud"], ["x", "--latency", "nan"]],
)
def test_wrong_flags_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
