"""Ensembles whose better levels are residuals: what is resident, what moves, and answers like those of a fresh load."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import Compute, choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.residency import Block
from flexquant.engine.segment import Floats, Segment
from flexquant.engine.store_reader import StoreReader
from support.elastic_models import PROMPT, digests, digests_by_position, generate, move
from support.ensembles import Shape, random_ensemble

WIDTHS = [(8, 4), (8, 3), (8, 2), (4, 2), (8, 4, 2), (8, 5, 3)]
SHAPE = Shape(layers=2)
CUTS = {"model.layers.0.mlp.up_proj": (32, 64), "lm_head": (96,)}


def nested(folder: Path, widths: Sequence[int], shape: Shape = SHAPE, *, sliced: bool = False) -> Ensemble:
    """A nested ensemble; its modules go down one after the other, level by level."""
    cuts = CUTS if sliced else {}
    return Ensemble.open(random_ensemble(folder, shape, bits=widths, cuts=cuts, nested=True, shared_orders=True))


def logits(model: ElasticModel) -> Floats:
    sequence = model.new_sequence(len(PROMPT))
    found = model.forward([Segment(sequence, np.array(PROMPT))])
    model.release(sequence)
    return found


def both() -> list[Compute]:
    return [choose_compute("auto", 1), choose_compute("torch", 1)]


@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "sliced"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_every_position_has_the_weights_of_its_levels(tmp_path: Path, widths: Sequence[int], sliced: bool) -> None:
    """On the native and on the torch path, after moves one by one and after leaps."""
    ensemble = nested(tmp_path / "nested", widths, sliced=sliced)
    expected = digests_by_position(ensemble)
    last = len(expected) - 1
    for compute in both():
        model = ElasticModel.load(ensemble, kv_pages=4, compute=compute)
        for position in [*range(last + 1), last // 2, 0, last, last // 3]:
            move(model, position)
            assert digests(model) == expected[position]
            snapshot = model.resident_bytes()
            assert snapshot.payload == model.footprints[position] - ensemble.manifest.fixed_bytes
            assert snapshot.loading == 0
        model.close()


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_native_products_add_up_as_those_of_torch(tmp_path: Path, widths: Sequence[int]) -> None:
    ensemble = nested(tmp_path / "nested", widths)
    native, torch = (ElasticModel.load(ensemble, kv_pages=4, compute=compute) for compute in both())
    for position in range(0, native.max_position + 1, 5):
        move(native, position)
        move(torch, position)
        found, expected = logits(native), logits(torch)
        assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    native.close()
    torch.close()


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 45), min_size=1, max_size=8))
def test_any_way_gives_the_answers_of_a_fresh_load(tmp_path_factory: pytest.TempPathFactory, way: list[int]) -> None:
    ensemble = nested(tmp_path_factory.mktemp("way") / "nested", (8, 4, 2))
    model = ElasticModel.load(ensemble, kv_pages=4)
    for position in way:
        move(model, min(position, model.max_position))
    fresh = ElasticModel.load(ensemble, kv_pages=4, position=model.position)
    assert generate(model) == generate(fresh)
    assert model.resident_bytes().modules == fresh.resident_bytes().modules
    model.close()
    fresh.close()


def test_going_down_reads_nothing_and_going_up_reads_the_residuals_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = nested(tmp_path / "nested", (8, 4, 2))
    reads: list[int] = []
    original = StoreReader.read

    def counted(self: StoreReader, block: Block, buffer: memoryview) -> None:
        reads.append(block.payload)
        original(self, block, buffer)

    monkeypatch.setattr(StoreReader, "read", counted)
    model = ElasticModel.load(ensemble, kv_pages=4)
    best, smallest = model.footprints[0], model.footprints[-1]
    assert sum(reads) == best - ensemble.manifest.fixed_bytes
    assert model.resident_bytes().scratch["spare"] == 0
    reads.clear()
    move(model, model.max_position)
    assert reads == []
    move(model, 0)
    assert sum(reads) == best - smallest
    model.close()


def test_a_row_is_the_same_bits_in_any_company(tmp_path: Path) -> None:
    ensemble = nested(tmp_path / "nested", (8, 3))
    model = ElasticModel.load(ensemble, kv_pages=32)
    prompts = [np.array(PROMPT[: 3 + row]) for row in range(8)]
    alone = []
    for prompt in prompts:
        sequence = model.new_sequence(len(prompt))
        alone.append(model.forward([Segment(sequence, prompt)])[0])
        model.release(sequence)
    sequences = [model.new_sequence(len(prompt)) for prompt in prompts]
    together = model.forward([Segment(*pair) for pair in zip(sequences, prompts, strict=True)])
    assert np.array_equal(together, np.stack(alone))
    model.close()
