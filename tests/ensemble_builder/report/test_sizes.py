"""Granularity, the ladder of whole models, and storage, against real stores."""

import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from flexquant.engine.ensemble import Ensemble
from flexquant.ensemble_builder.report.ladder import module_bytes, rungs
from flexquant.ensemble_builder.report.sizes import Granularity, ladder_of, storage_of

DEMO = Path(str(files("flexquant.server"))) / "demo"


@pytest.fixture(scope="module")
def demo() -> Ensemble:
    return Ensemble.open(DEMO)


def test_granularity_is_mean_and_largest_step() -> None:
    found = Granularity.of([100, 90, 60, 55])
    assert (found.steps, found.mean_bytes, found.most_bytes) == (3, 15, 30)


@pytest.mark.parametrize(
    ("low", "up", "bits"),
    [
        (3, 4, [4, 3.75, 3.5, 3.25, 3]),
        (3.1, 3.5, [3.5, 3.25, 3.1]),
        (2.5, 2.6, [2.6, 2.5]),
        (1.5, 4, []),
        (3, 8.5, []),
    ],
)
def test_rungs_are_a_quarter_of_a_bit_apart_and_include_both_levels(low: float, up: float, bits: list[float]) -> None:
    assert rungs(low, up) == bits


@pytest.mark.parametrize("level", [0, 1])
def test_computed_sizes_are_those_of_stores_that_were_built(demo: Ensemble, level: int) -> None:
    stored = sum(module.variants[level].bytes for module in demo.manifest.modules)
    assert module_bytes(demo.config, demo.manifest.levels[level].bits, 32) == stored


def test_the_ladder_ends_where_the_ensemble_ends(demo: Ensemble) -> None:
    ladder = ladder_of(demo.manifest, demo.config, 32, 1000)
    assert ladder is not None
    footprints = demo.sequence().footprint_bytes
    assert (ladder.footprints[0], ladder.footprints[-1]) == (footprints[0], footprints[-1])
    assert len(ladder.bits) == 21
    assert ladder.storage_bytes == 1000 + sum(ladder.footprints) - 21 * demo.manifest.fixed_bytes


def test_storage_counts_shared_files_once(tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(DEMO, copied)
    common = "levels/{}/common.safetensors"
    manifest = Ensemble.open(copied).manifest
    apart = storage_of(copied, manifest)
    (copied / common.format("3.0")).unlink()
    os.link(copied / common.format("8.0"), copied / common.format("3.0"))
    linked = storage_of(copied, manifest)
    shared = (copied / common.format("8.0")).stat().st_size
    assert apart.disk_bytes == sum(apart.stores.values())
    assert linked.disk_bytes == apart.disk_bytes - shared
    assert linked.once_bytes == apart.once_bytes <= linked.disk_bytes
    assert shared <= apart.shared_bytes < shared + 10**6
