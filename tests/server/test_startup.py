"""From settings and an ensemble folder to a daemon that answers."""

import json
from pathlib import Path

import pytest

from flexquant.engine.compute import choose_compute
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import FlexQuantError, MemoryShortError, UsageError
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.sample import MemoryReading
from flexquant.server.monitor import Monitor
from flexquant.server.probes.discover import Roots, discover
from flexquant.server.settings import Settings, load_settings
from flexquant.server.startup import demand_of, describe, make_monitor, make_parameters, measure_room, start
from support.ensembles import random_ensemble

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_ensemble(tmp_path_factory.mktemp("start") / "tiny")


def load(*arguments: str) -> Settings:
    return load_settings(["--model", "tiny", *arguments])


class Probe:
    """Says what it was told."""

    def __init__(self, name: str, available: int | None, *, shared: bool = True) -> None:
        self.name = name
        self._available, self._shared = available, shared

    def read(self) -> list[MemoryReading]:
        if self._available is None:
            raise OSError("no answer")
        return [MemoryReading(self.name, self._available, 16 * 1024 * MIB, self._shared)]


def test_sources_follow_the_settings() -> None:
    machine = tuple(probe.name for probe in discover(Roots()))
    assert machine[0] == "host"
    assert make_monitor(load()).names == machine
    assert make_monitor(load("--memory-budget", "1G")).names == (*machine, "budget")
    assert make_monitor(load("--simulated-memory", "2G", "--simulated-pids", "1")).names == ("machine",)


def test_contradicting_reserves_are_refused() -> None:
    assert make_parameters(load("--profile", "greedy")).profile == "greedy"
    with pytest.raises(UsageError, match="--reserve-target"):
        make_parameters(load("--reserve-low", "2G", "--reserve-target", "1G"))


def test_room_is_that_of_the_tightest_source() -> None:
    footprints = [100 * MIB, 80 * MIB, 50 * MIB]
    monitor = Monitor([Probe("host", 5000 * MIB), Probe("budget", 900 * MIB, shared=False), Probe("gone", None)])
    room = measure_room(monitor, Parameters(), footprints)
    assert room.available == 900 * MIB
    assert room.spare == 870 * MIB, "a budget keeps only what a growing step needs"
    crowded = measure_room(Monitor([Probe("host", 1000 * MIB)]), Parameters(), footprints)
    assert crowded.available == 1000 * MIB
    assert crowded.spare < 0, "others keep their reserve"


def test_without_any_source_it_does_not_guess() -> None:
    with pytest.raises(FlexQuantError, match="cannot be measured"):
        measure_room(Monitor([Probe("gone", None)]), Parameters(), [2, 1])


def test_demand_counts_arenas_scratch_and_pages(folder: Path) -> None:
    ensemble = Ensemble.open(folder)
    demand = demand_of(ensemble, choose_compute())
    manifest = ensemble.manifest.sequences["default"].footprint_bytes
    assert len(demand.weights) == len(manifest)
    assert demand.weights[0] > demand.weights[-1] > manifest[-1] - ensemble.manifest.fixed_bytes
    assert demand.context == 512
    assert demand.kv_page == 3 * 2 * 2 * 64 * 16 * 2  # layers, keys and values, kv heads, tokens, head size, float16


def test_start_and_close(folder: Path) -> None:
    daemon = start(load("--pin", "2", "--context", "128"), folder)
    try:
        assert daemon.elastic_model.position == 2
        assert daemon.state.model.context == 128
        daemon.state.engine.check()
        state = daemon.state.controller.state()
        assert (state.mode, state.pinned_position) == ("pinned", 2)
    finally:
        daemon.close()
    with pytest.raises(ApiError, match="stopping"):
        daemon.state.engine.check()


def test_too_small_a_budget_is_told_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(MemoryShortError, match="are missing"):
        start(load("--memory-budget", "1MiB"), folder)


def test_names_and_fingerprint(folder: Path) -> None:
    ensemble = Ensemble.open(folder)
    tokenizer = Tokenizer.open(ensemble.tokenizer_folder)
    served = describe(load("--alias", "gpt-4o"), ensemble, tokenizer, 100, "avx2")
    assert served.id == "tiny"
    assert served.aliases == {"gpt-4o"}
    served.check_name("gpt-4o")
    assert served.fingerprint(3).startswith("fq")
    assert "-avx2-" in served.fingerprint(3)
    assert served.fingerprint(3).endswith("-p3")
    assert served.chat_template is None


def test_another_sequence_of_the_ensemble(tmp_path: Path) -> None:
    folder = random_ensemble(tmp_path / "tiny")
    path = folder / "ensemble.json"
    manifest = json.loads(path.read_text())
    (steps,) = manifest["sequences"].values()
    manifest["sequences"]["all"] = {
        "unit": "layer",
        "transitions": [{"moves": [move for step in steps["transitions"] for move in step["moves"]]}],
        "footprint_bytes": [steps["footprint_bytes"][0], steps["footprint_bytes"][-1]],
        "quality": [steps["quality"][0], steps["quality"][-1]],
    }
    path.write_text(json.dumps(manifest))
    daemon = start(load("--sequence", "all", "--pin", "1", "--context", "128"), folder)
    try:
        assert daemon.state.controller.state().max_position == daemon.elastic_model.position == 1
        assert daemon.state.model.fingerprint(1).endswith("-all-p1")
    finally:
        daemon.close()
    with pytest.raises(UsageError, match="--sequence block") as refused:
        start(load("--sequence", "block"), folder)
    assert refused.value.hint is not None
    assert "all" in refused.value.hint
