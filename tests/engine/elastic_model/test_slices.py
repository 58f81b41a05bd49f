"""Layers in slices of columns that move one by one: what the model is and answers, and what it gives back."""

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from flexquant.engine.compute import AUTO, TORCH, Compute, choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory_needs import MemoryNeeds
from support.elastic_models import PROMPT, digests, digests_by_position, generate, logits, move
from support.ensembles import Shape, random_ensemble, shape_of_megabytes
from support.native_layers import needs_native

SHAPE = Shape(layers=2, vocab=290)
"""Its head ends within a block of 16 columns."""
CUTS = {
    "model.layers.0.self_attn.q_proj": [32],
    "model.layers.0.mlp.gate_proj": [32, 96],
    "model.layers.0.mlp.up_proj": [64],
    "model.layers.1.mlp.up_proj": [32, 64, 96],
    "model.layers.1.mlp.down_proj": [32],
    "lm_head": [64, 256, 288],
}


@pytest.fixture(scope="module", params=[False, True], ids=["orders apart", "shared orders"])
def shared_orders(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def cut(shared_orders: bool, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("slices") / "cut"
    return Ensemble.open(random_ensemble(folder, SHAPE, cuts=CUTS, shared_orders=shared_orders))


@pytest.fixture(scope="module")
def uncut(shared_orders: bool, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """The same weights in whole layers."""
    folder = tmp_path_factory.mktemp("slices") / "uncut"
    return Ensemble.open(random_ensemble(folder, SHAPE, shared_orders=shared_orders))


@pytest.fixture(params=[AUTO, TORCH])
def compute(request: pytest.FixtureRequest) -> Compute:
    return choose_compute(request.param)


@pytest.fixture
def model(cut: Ensemble, compute: Compute) -> Iterator[ElasticModel]:
    model = ElasticModel.load(cut, kv_pages=8, compute=compute)
    yield model
    model.close()


def test_weights_equal_the_offline_assembly_at_every_position(model: ElasticModel, cut: Ensemble) -> None:
    expected = digests_by_position(cut)
    positions = [0]

    def compare(position: int) -> None:
        assert digests(model) == expected[position]
        assert model.resident_bytes().payload + cut.manifest.fixed_bytes == cut.sequence().footprint_bytes[position]
        positions.append(position)

    model.on_published = compare
    move(model, model.max_position)
    move(model, 0)
    assert len(positions) == 2 * model.max_position + 1


def test_moved_through_slices_it_answers_like_a_fresh_one(model: ElasticModel, cut: Ensemble, compute: Compute) -> None:
    """At every position (with torch, which is slow, at some), after moves while tokens were streaming."""
    for position in [*range(0, model.max_position + 1, 5 if compute.name == TORCH else 1), 0]:
        with Generation(model, PROMPT, max_tokens=3, ignore_eos=True) as generation:
            generation.step()
            move(model, position)
            while generation.finished is None:
                generation.step()
        fresh = ElasticModel.load(cut, position=position, kv_pages=8, compute=compute)
        try:
            assert generate(model, tokens=5) == generate(fresh, tokens=5)
            assert torch.equal(logits(model), logits(fresh))
        finally:
            fresh.close()


@needs_native
def test_slices_of_one_variant_give_the_bits_of_the_layer(cut: Ensemble, uncut: Ensemble) -> None:
    """Wherever every layer has all its slices at one variant: the transitions go through them layer by layer."""
    linears = [module.linear for module in cut.manifest.modules]
    at_layers = [0, *(position for position, (a, b) in enumerate(pairwise(linears), start=1) if a != b), len(linears)]
    assert len(at_layers) == len(uncut.sequence().transitions) + 1
    sliced, whole = ElasticModel.load(cut, kv_pages=8), ElasticModel.load(uncut, kv_pages=8)
    try:
        for position, in_slices in enumerate(at_layers):
            move(whole, position)
            move(sliced, in_slices)
            assert torch.equal(logits(sliced), logits(whole))
            assert generate(sliced) == generate(whole)
    finally:
        sliced.close()
        whole.close()


@needs_native
def test_between_layers_a_slice_counts(cut: Ensemble, uncut: Ensemble) -> None:
    """Inside the head: some columns of the logits are those of one variant, some those of the other."""
    head = [module.name.startswith("lm_head") for module in cut.manifest.modules].index(True)
    sliced, whole = ElasticModel.load(cut, kv_pages=8), ElasticModel.load(uncut, kv_pages=8)
    try:
        last = whole.max_position
        move(whole, last - 1)
        before = logits(whole)
        move(whole, last)
        after = logits(whole)
        for moved, end in enumerate([0, *CUTS["lm_head"], SHAPE.vocab]):
            move(sliced, head + moved)
            assert torch.equal(logits(sliced), torch.cat([after[:, :end], before[:, end:]], dim=1))
    finally:
        sliced.close()
        whole.close()


@pytest.mark.skipif(sys.platform != "linux", reason="posix_fadvise is Linux's")
def test_pages_that_slices_share_leave_the_page_cache_behind_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped after every slice, the layer would be read from disk as often as it has slices."""
    names = [f"lm_head[{a}:{b}]" for a, b in pairwise([0, 64, 256, 288, SHAPE.vocab])]
    folder = random_ensemble(
        tmp_path / "head", SHAPE, cuts={"lm_head": CUTS["lm_head"]}, transitions=[[(name, 0, 1) for name in names]]
    )
    ensemble = Ensemble.open(folder)
    model = ElasticModel.load(ensemble, kv_pages=4)
    events: list[tuple[str, int, int]] = []
    preadv = os.preadv

    def read(descriptor: int, buffers: list[memoryview], position: int) -> int:
        events.append(("read", position, position + sum(map(len, buffers))))
        return preadv(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", read)
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _file, start, length, _advice: events.append(("drop", start, start + length))
    )
    model.drop_page_cache = True
    move(model, 1)
    model.close()
    kinds = [kind for kind, *_ in events]
    assert "read" not in kinds[kinds.index("drop") :]
    dropped = [(start, end) for kind, start, end in events if kind == "drop"]
    for kind, start, end in events:
        assert kind == "drop" or any(first <= start and end <= last for first, last in dropped)


def test_every_byte_is_given_back(tmp_path: Path) -> None:
    """By the books at every position, and by the system at both ends."""
    shape = shape_of_megabytes(40)
    cuts = {key: list(range(512, outputs, 512)) for key, (_, outputs) in shape.linears().items() if outputs > 512}
    ensemble = Ensemble.open(random_ensemble(tmp_path / "large", shape, bits=(8, 2), cuts=cuts))
    needs = MemoryNeeds.of(ensemble, choose_compute())
    assert max(-np.diff(needs.mapped)) < 4 << 20
    model = ElasticModel.load(ensemble, kv_pages=4)
    try:
        model.on_published = lambda position: check(model.resident_bytes().mapped == needs.mapped[position])
        for _ in range(2):
            at_best = anonymous_bytes()
            move(model, model.max_position)
            at_smallest = anonymous_bytes()
            move(model, 0)
            ordered = needs.mapped[0] - needs.mapped[-1]
            assert ordered > 30_000_000
            assert abs(at_best - at_smallest - ordered) < 2 << 20
    finally:
        model.close()


def check(condition: bool) -> None:
    assert condition
