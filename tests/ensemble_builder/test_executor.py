"""Measuring in this process and in others."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexquant.engine.errors import CheckpointError, FlexQuantError
from flexquant.engine.manifest import Quality, Text
from flexquant.ensemble_builder.device import Kept
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.evaluation_setup import LEAST_BYTES, EvaluationSetup
from flexquant.ensemble_builder.executor import Executor, LocalProcesses, executor
from flexquant.ensemble_builder.sensitivity import single_states
from flexquant.ensemble_builder.stores import modules_of, open_store
from flexquant.ensemble_builder.units import units_of
from support.ensembles import Shape, random_ensemble

LEVELS = ("8.0", "3.0")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSetup:
    folder = random_ensemble(tmp_path_factory.mktemp("made"), Shape(layers=2))
    stores = [open_store(folder / "levels" / name, name, float(name)) for name in LEVELS]
    tokens = torch.randint(0, 256, (2, 64), generator=torch.Generator().manual_seed(0))
    windows = Windows(tokens, Text(name="random", sha256="0" * 64, tokens=128))
    return EvaluationSetup(folder, LEVELS, modules_of(stores, 4000), windows, checkpoint=None)


@pytest.fixture(scope="module")
def candidates(setup: EvaluationSetup) -> list[tuple[int, ...]]:
    return single_states(units_of(setup.modules, LEVELS, "projection").units)


@pytest.fixture(scope="module")
def processes(setup: EvaluationSetup) -> Iterator[Executor]:
    with executor(setup, workers=2) as execute:
        yield execute


def top(setup: EvaluationSetup) -> tuple[int, ...]:
    return (0,) * len(setup.modules)


def test_processes_find_the_same_figures_in_the_same_order(
    setup: EvaluationSetup, candidates: list[tuple[int, ...]], processes: Executor
) -> None:
    assert processes.workers == 2
    with executor(setup, workers=1) as alone:
        assert alone.workers == 1
        expected = list(alone(top(setup), candidates))
    assert len({quality.kl for quality in expected}) > len(expected) // 2
    assert list(processes(top(setup), candidates)) == expected
    assert list(processes(top(setup), candidates[::-1])) == expected[::-1]


def test_figures_come_one_by_one(
    setup: EvaluationSetup, candidates: list[tuple[int, ...]], processes: Executor
) -> None:
    found = processes(top(setup), candidates[:4])
    assert isinstance(next(found), Quality)
    assert len(list(found)) == 3


def test_a_process_that_was_killed(setup: EvaluationSetup, candidates: list[tuple[int, ...]]) -> None:
    with executor(setup, workers=2) as execute:
        assert isinstance(execute, LocalProcesses)
        found = execute(top(setup), candidates * 50)  # more than they can have done by then
        next(found)
        for process in execute.processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(FlexQuantError, match=r"has ended \(signal SIGKILL\)") as caught:
            list(found)
    assert "the same command goes on from there" in (caught.value.hint or "")


def test_what_fails_in_a_process_fails_here(setup: EvaluationSetup, tmp_path: Path) -> None:
    with executor(replace(setup, folder=tmp_path), workers=2) as execute:
        assert isinstance(execute, LocalProcesses)
        with pytest.raises(CheckpointError, match="cannot be read"):
            list(execute(top(setup), [top(setup)]))
    assert all(process.exitcode is not None for process in execute.processes)


def test_processes_share_the_memory_of_one(setup: EvaluationSetup) -> None:
    each = setup.shared(4)
    assert (4 * each.kept.states, 4 * each.kept.weights) == (setup.kept.states, setup.kept.weights)
    assert setup.shared(10**6).kept == Kept(LEAST_BYTES, LEAST_BYTES)
