"""The bench of a build: its stages, the estimates, and the whole of it on a tiny model."""

from pathlib import Path

import pytest

from bench.building.__main__ import main
from bench.building.estimates import OTHERS, estimates, weights_of
from bench.building.watched_build import BuildError, Stages, watched_build
from bench.scale import BenchShape


def test_stages_follow_each_other() -> None:
    times = iter([100.0, 103.0, 106.0, 110.0])
    stages = Stages(clock=lambda: next(times))
    for line, resident in [
        ("quantizing: 1/3, about 1 min left", 5),
        ("a note: nothing is counted here", 7),
        ("quantizing: 3/3 in 6 s", 6),
        ("by block: 6 positions, area under KL 0.0066", 0),
        ("searching by block: 1/2, about 4 s left", 9),
    ]:
        stages.told(line)
        stages.seen(resident)
    assert [(stage.name, stage.started, stage.ended, stage.peak) for stage in stages.found] == [
        ("quantizing", 100.0, 106.0, 7),
        ("searching by block", 106.0, 110.0, 9),
    ]


def test_estimates_grow_with_weights_and_tokens() -> None:
    measured = BenchShape(2048, 8192, 16, 32, 8, 32_000, 8192)
    assert weights_of(measured) == 16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192) + 2048 * 32_000
    one, eight = estimates(measured, seconds=10, tokens=1024)
    assert one.model == "Llama 3.2 1B"
    assert one.transitions == 113
    assert one.forward_seconds == pytest.approx(80 * weights_of(OTHERS[one.model]) / weights_of(measured))
    assert one.cost.least_minutes == pytest.approx(226 * one.forward_seconds / 60)
    assert 5 < eight.forward_seconds / one.forward_seconds < 8


def test_a_build_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exit code 3"):
        watched_build([str(tmp_path / "nothing"), "--levels", "8,4", "--out", str(tmp_path / "out")])


def test_a_tiny_model_is_built_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markdown = tmp_path / "results.md"
    given = ["--quick", "--unit", "layer", "--work", str(tmp_path / "work"), "--markdown", str(markdown)]
    assert main(given) == 0
    text = markdown.read_text()
    assert "| quantizing |" in text
    assert "| searching by layer |" in text
    assert "| evaluations | 6 |" in text
    assert main(given) == 2
    assert "only a whole build can be timed" in capsys.readouterr().err
