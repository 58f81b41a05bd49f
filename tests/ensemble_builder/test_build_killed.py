"""A build that is killed at any moment and started again ends with the same manifest."""

import random
import time
from pathlib import Path

import pytest

from support.build_process import Builder
from support.tiny_checkpoint import tiny_checkpoint, write_texts

KILLS = 10


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    folder = tmp_path_factory.mktemp("builder")
    calibration, search = write_texts(folder)
    texts = ["--calibration", str(calibration), "--search-text", str(search)]
    what = ["--levels", "8,3", "--max-step", "2K", "--unit", "projection,block"]
    return Builder([str(tiny_checkpoint(folder / "tiny")), *what, *texts], folder / "log")


@pytest.fixture(scope="module")
def undisturbed(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """Return the manifest of a build that nobody killed, and its seconds."""
    builder.finish(tmp_path_factory.mktemp("first") / "out")  # the first process waits for the fork server's imports
    start = time.monotonic()
    manifest = builder.finish(tmp_path_factory.mktemp("undisturbed") / "out")
    return manifest, time.monotonic() - start


def test_killed_at_ten_random_moments(builder: Builder, undisturbed: tuple[bytes, float], tmp_path: Path) -> None:
    manifest, seconds = undisturbed
    rng = random.Random(1)
    killed = 0
    for number in range(KILLS):
        out = tmp_path / str(number)
        killed += builder.kill_after(rng.uniform(0.05, 0.95) * seconds, out)
        assert builder.finish(out) == manifest
        assert sorted(path.name for path in out.iterdir()) == ["ensemble.json", "levels", "report.json", "search.jsonl"]
    assert killed > 0


def test_killed_again_and_again_it_gets_there(
    builder: Builder, undisturbed: tuple[bytes, float], tmp_path: Path
) -> None:
    manifest, seconds = undisturbed
    rng = random.Random(2)
    out = tmp_path / "out"
    patience = seconds
    while builder.kill_after(rng.uniform(0.3, 0.7) * patience, out):
        patience *= 1.2  # what is done again after every start may take most of a build's time
    assert builder.finish(out) == manifest


def test_killed_while_other_processes_measure(
    builder: Builder, undisturbed: tuple[bytes, float], tmp_path: Path
) -> None:
    """A search with workers that is killed may be continued without them, and the other way round."""
    manifest, seconds = undisturbed
    rng = random.Random(3)
    for number in range(3):
        out = tmp_path / str(number)
        builder.kill_after(rng.uniform(0.6, 1.2) * seconds, out, "--workers", "2")
        assert builder.finish(out, *(["--workers", "2"] if number == 0 else [])) == manifest
