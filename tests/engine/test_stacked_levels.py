"""Ensembles in which a better level adds to the next one: nested EXL2, and Any-Precision.

What is resident, what moves, and answers like those of a fresh load.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import Compute, choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.manifest import Method
from flexquant.engine.memory.arena import Arena
from flexquant.engine.residency import Block
from flexquant.engine.segment import Segment
from flexquant.engine.store_reader import StoreReader
from support.elastic_models import PROMPT, digests, digests_by_position, generate, logits, move
from support.ensembles import Shape, random_ensemble

CUTS = {"model.layers.0.mlp.up_proj": (32, 64), "lm_head": (96,)}
EVEN = Shape(layers=2)
ODD = Shape(layers=2, hidden=96, heads=3, kv_heads=1, intermediate=160, vocab=290)
"""Inputs that are odd multiples of 32, and outputs that are no multiples of 16."""


@dataclass(frozen=True)
class Stacked:
    """A kind of ensemble. Its modules go down one after the other, level by level."""

    method: Method
    widths: Sequence[int]
    shape: Shape = EVEN

    def __str__(self) -> str:
        return f"{self.method}-{'-'.join(map(str, self.widths))}"

    def write(self, folder: Path, *, sliced: bool = False) -> Ensemble:
        """Write one of random weights."""
        cuts = CUTS if sliced else {}
        return Ensemble.open(
            random_ensemble(
                folder,
                self.shape,
                bits=self.widths,
                cuts=cuts,
                method=self.method,
                nested=True,
                shared_orders=True,
            )
        )


NESTED = [Stacked("exl2", widths) for widths in [(8, 4), (8, 3), (8, 2), (4, 2), (8, 4, 2), (8, 5, 3)]]
PLANES = [Stacked("any-precision", widths, ODD) for widths in [(6, 5, 4, 3), (4, 3), (8, 7, 2), (3, 2), (6, 3)]]
LARGEST = [Stacked("exl2", (8, 4, 2)), Stacked("any-precision", (6, 5, 4, 3), ODD)]


def both() -> list[Compute]:
    return [choose_compute("auto", 1), choose_compute("torch", 1)]


@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "sliced"])
@pytest.mark.parametrize("kind", [*NESTED, *PLANES], ids=str)
def test_every_position_has_the_weights_of_its_levels(tmp_path: Path, kind: Stacked, sliced: bool) -> None:
    """On the native and on the torch path, after moves one by one and after leaps."""
    ensemble = kind.write(tmp_path / "made", sliced=sliced)
    expected = digests_by_position(ensemble)
    last = len(expected) - 1
    for compute in both():
        model = ElasticModel.load(ensemble, kv_pages=4, compute=compute)
        for position in [*range(last + 1)[:: 1 if kind in NESTED else 3], last, last // 2, 0, last, last // 3]:
            move(model, position)
            assert digests(model) == expected[position]
            snapshot = model.resident_bytes()
            assert snapshot.payload == model.footprints[position] - ensemble.manifest.fixed_bytes
            assert snapshot.loading == 0
        model.close()


@pytest.mark.parametrize("kind", [*NESTED, *PLANES], ids=str)
def test_native_products_are_near_those_of_torch(tmp_path: Path, kind: Stacked) -> None:
    ensemble = kind.write(tmp_path / "made")
    native, torch = (ElasticModel.load(ensemble, kv_pages=4, compute=compute) for compute in both())
    for position in range(0, native.max_position + 1, 5):
        move(native, position)
        move(torch, position)
        found, expected = logits(native), logits(torch)
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    native.close()
    torch.close()


@pytest.mark.parametrize("kind", LARGEST, ids=str)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(way=st.lists(st.integers(0, 45), min_size=1, max_size=8))
def test_any_way_gives_the_answers_of_a_fresh_load(
    tmp_path_factory: pytest.TempPathFactory, kind: Stacked, way: list[int]
) -> None:
    ensemble = kind.write(tmp_path_factory.mktemp("way") / "made")
    model = ElasticModel.load(ensemble, kv_pages=4)
    for position in way:
        move(model, min(position, model.max_position))
    fresh = ElasticModel.load(ensemble, kv_pages=4, position=model.position)
    assert generate(model) == generate(fresh)
    assert model.resident_bytes().modules == fresh.resident_bytes().modules
    model.close()
    fresh.close()


@pytest.mark.parametrize("kind", LARGEST, ids=str)
def test_going_down_reads_nothing_and_going_up_reads_what_is_added_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Stacked
) -> None:
    ensemble = kind.write(tmp_path / "made")
    reads = _reads(monkeypatch)
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


def test_planes_go_down_without_new_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what moves; and of a whole block that goes down by two bits at once."""
    keys = [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    way = [[("lm_head", 0, 1)], [(key, 0, 2) for key in keys], [("lm_head", 1, 3)], [(keys[0], 2, 3)]]
    ensemble = Ensemble.open(
        random_ensemble(tmp_path / "planes", ODD, bits=(6, 5, 4, 3), method="any-precision", transitions=way)
    )
    reads = _reads(monkeypatch)
    model = ElasticModel.load(ensemble, kv_pages=4)
    reads.clear()
    made: list[int] = []
    make = Arena.__init__

    def noted(self: Arena, nbytes: int) -> None:
        made.append(nbytes)
        make(self, nbytes)

    monkeypatch.setattr(Arena, "__init__", noted)
    for position in range(model.max_position + 1):
        move(model, position)
        assert model.resident_bytes().payload == model.footprints[position] - ensemble.manifest.fixed_bytes
    assert (reads, made) == ([], [])
    move(model, 0)
    assert sum(reads) == model.footprints[0] - model.footprints[-1]
    model.close()


@pytest.mark.parametrize("kind", [Stacked("exl2", (8, 3)), Stacked("any-precision", (5, 3), ODD)], ids=str)
def test_a_row_is_the_same_bits_in_any_company(tmp_path: Path, kind: Stacked) -> None:
    model = ElasticModel.load(kind.write(tmp_path / "made"), kv_pages=32)
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


def test_the_native_kernels_run_planes_without_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ElasticModel.load(Stacked("any-precision", (4, 3), ODD).write(tmp_path / "planes"), kv_pages=4).close()
    assert not caplog.records


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the bytes of every block that is read from now on."""
    reads: list[int] = []
    original = StoreReader.read

    def counted(self: StoreReader, block: Block, buffer: memoryview) -> None:
        reads.append(block.payload)
        original(self, block, buffer)

    monkeypatch.setattr(StoreReader, "read", counted)
    return reads
