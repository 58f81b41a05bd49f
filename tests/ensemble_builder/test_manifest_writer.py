"""The manifest that a build writes."""

from pathlib import Path

import pytest
import torch

from flexquant.engine.manifest import FileRecord, Manifest, Quality, Text, read_manifest
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.manifest_writer import manifest_of, write_manifest
from flexquant.ensemble_builder.search import Found
from flexquant.ensemble_builder.sequence import states_along
from flexquant.ensemble_builder.sequence_search import Searched
from flexquant.ensemble_builder.stores import modules_of, open_store
from flexquant.ensemble_builder.units import units_of
from support.ensembles import Shape, random_ensemble


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    levels = random_ensemble(tmp_path_factory.mktemp("made"), Shape(layers=1)) / "levels"
    stores = [open_store(levels / name, name, float(name)) for name in ("8.0", "3.0")]
    modules = modules_of(stores)
    units = units_of(modules, ["8.0", "3.0"], "projection")
    order = (7, 3, 0, 1, 2, 4, 6, 5)
    found = Found(
        order=order,
        losses=tuple(range(9)),
        area=1.0,
        greedy_area=2.0,
        sensitivity=tuple((0.1 + 0.2 * index,) for index in range(8)),
        evaluations=17,
    )
    along = states_along(units.units, order)
    qualities = tuple(Quality(perplexity=10.0, kl=sum(state)) for state in along)
    searched = Searched(units, found, qualities, frozenset(along), minutes=1.0)
    text = Text(name="search.txt", sha256="0" * 64, tokens=16)
    return manifest_of(
        name="random",
        stores=stores,
        modules=modules,
        sequences={"projection": searched},
        evaluations=17,
        windows=Windows(torch.zeros(2, 8, dtype=torch.int64), text),
        reference="unquantized",
        reference_perplexity=9.5,
        seed=3,
        quantization=None,
        files={"levels/8.0/config.json": FileRecord(bytes=1, sha256="1" * 64)},
    )


def test_the_sequence_lowers_the_modules_in_the_order_found(manifest: Manifest) -> None:
    sequence = manifest.sequences["projection"]
    moved = [move.module for transition in sequence.transitions for move in transition.moves]
    assert moved == [manifest.modules[index].name for index in (7, 3, 0, 1, 2, 4, 6, 5)]
    assert [quality.kl for quality in sequence.quality] == list(range(9))


def test_footprints_count_modules_and_norms(manifest: Manifest) -> None:
    footprints = manifest.sequences["projection"].footprint_bytes
    assert footprints[0] == manifest.fixed_bytes + sum(module.variants[0].bytes for module in manifest.modules)
    assert footprints[-1] == manifest.fixed_bytes + sum(module.variants[-1].bytes for module in manifest.modules)


def test_sensitivities_are_rounded(manifest: Manifest) -> None:
    assert [module.sensitivity for module in manifest.modules][:3] == [[0.1], [0.3], [0.5]]


def test_what_was_done_is_on_record(manifest: Manifest) -> None:
    assert (manifest.evaluation.window_tokens, manifest.evaluation.windows) == (8, 2)
    assert (manifest.search.seed, manifest.search.evaluations) == (3, 17)
    assert [level.name for level in manifest.levels] == ["8.0", "3.0"]


def test_it_is_read_back_the_same(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest)
    first = (tmp_path / "ensemble.json").read_bytes()
    assert read_manifest(tmp_path) == manifest
    write_manifest(tmp_path, read_manifest(tmp_path))
    assert (tmp_path / "ensemble.json").read_bytes() == first
