"""The promise: memory goes back to the system, nothing extra is taken on the way, and nothing is lost over time."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.ensembles import random_ensemble, shape_of_megabytes

MIB = 1024 * 1024
CYCLES = 50
SUPPORT = Path(__file__).parents[1] / "support"


@dataclass(frozen=True)
class Measured:
    """Bytes, as `support/move_memory.py` prints them."""

    positions: int
    footprint: int
    mapped: tuple[int, int]
    anonymous: tuple[int, int]
    peak: int
    samples: int
    spare: int
    beyond_books: tuple[int, int]
    """At rest, and the most while moving."""
    after_cycles: list[int]


@pytest.fixture(scope="module")
def measured() -> Measured:
    """A process of its own moves 400 MB of random weights 0 -> N, and then 0 -> N -> 0 many times."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = random_ensemble(Path(scratch) / "large", shape_of_megabytes(400))
        result = subprocess.run(
            [sys.executable, SUPPORT / "move_memory.py", folder, str(CYCLES)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert result.returncode == 0, result.stderr
    return Measured(**json.loads(result.stdout))


def test_the_model_is_large_enough_to_mean_something(measured: Measured) -> None:
    assert measured.footprint >= 400_000_000
    assert measured.positions > 50
    assert measured.samples > measured.positions


def test_what_the_books_say_was_given_back_was_given_back(measured: Measured) -> None:
    ordered = measured.mapped[0] - measured.mapped[1]
    given_back = measured.anonymous[0] - measured.anonymous[1]
    assert ordered > 0.5 * measured.footprint
    assert given_back >= 0.95 * ordered


def test_shrinking_takes_no_more_than_the_declared_spare(measured: Measured) -> None:
    assert measured.spare < 0.02 * measured.footprint
    assert measured.peak <= measured.anonymous[0] + measured.spare


def test_nothing_is_held_that_is_not_on_the_books(measured: Measured) -> None:
    """The largest arena that a growing step fills has 11 MiB: it is on the books before it is there."""
    at_rest, moving = measured.beyond_books
    assert moving < at_rest + 4 * MIB


def test_many_cycles_do_not_drift(measured: Measured) -> None:
    assert len(measured.after_cycles) == CYCLES + 1
    assert max(measured.after_cycles) - min(measured.after_cycles) < 2 * MIB
    assert abs(measured.after_cycles[-1] - measured.anonymous[0]) < 2 * MIB
