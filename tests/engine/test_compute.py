"""Who computes: the choice by name, and the elastic model with each of them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flexquant.engine.compute import AUTO, TORCH, Compute, choose_compute, usable_cores
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UsageError
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.native import library
from flexquant.engine.native.compute import NativeCompute
from flexquant.engine.native.library import NativeUnavailableError
from flexquant.engine.torch_compute import TorchCompute
from support.elastic_models import exl2_specs, move
from support.ensembles import Shape, random_ensemble
from support.native_layers import KERNELS, needs_native
from support.torch_calls import appended

NAMES = [TORCH, *KERNELS]


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library.load.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(library, "FILE_NAME", "libnone.so")
        yield
    library.load.cache_clear()


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("compute") / "random"
    return Ensemble.open(random_ensemble(folder, Shape(layers=1), bits=(6, 3)))


# --- the choice


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_what_it_names(name: str) -> None:
    found = choose_compute(name, threads=2)
    assert found.name == name
    assert isinstance(found, TorchCompute if name == TORCH else NativeCompute)
    if name == TORCH:
        assert torch.get_num_threads() == 2
    else:
        assert (library.chosen_kernels(), library.threads()) == (name, 2)


@needs_native
def test_auto_is_the_best_of_this_machine_on_all_its_cores() -> None:
    assert choose_compute().name == choose_compute(AUTO).name == KERNELS[0]
    assert library.threads() == usable_cores() >= 1


@needs_native
def test_an_unknown_name_is_refused_with_those_that_run_here() -> None:
    with pytest.raises(UsageError, match="'nonsense' do not run here") as raised:
        choose_compute("nonsense")
    assert raised.value.hint == f"These do: {', '.join([AUTO, *KERNELS, TORCH])}."


@pytest.mark.usefixtures("not_built")
def test_without_the_library_auto_is_torch_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert choose_compute(AUTO, threads=1).name == TORCH
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "libnone.so was not built" in record.getMessage()
    assert "compiler" in record.getMessage()


@pytest.mark.usefixtures("not_built")
def test_without_the_library_torch_by_name_is_no_cause_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert choose_compute(TORCH, threads=1).name == TORCH
    assert caplog.records == []


@pytest.mark.usefixtures("not_built")
def test_without_the_library_kernels_by_name_are_refused() -> None:
    with pytest.raises(NativeUnavailableError, match="was not built"):
        choose_compute("portable")


# --- the elastic model with each of them


def logits(model: ElasticModel) -> torch.Tensor:
    sequence = model.new_sequence(80)
    try:
        model.forward([appended(sequence, torch.arange(2, 72))])
        rows = [model.forward([appended(sequence, torch.tensor([token]))]) for token in (5, 9)]
        return torch.from_numpy(np.concatenate(rows))
    finally:
        model.release(sequence)


def fresh_logits(ensemble: Ensemble, compute: Compute, position: int) -> torch.Tensor:
    model = ElasticModel.load(ensemble, kv_pages=4, position=position, compute=compute)
    try:
        return logits(model)
    finally:
        model.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_goes_down_and_up_again(name: str, ensemble: Ensemble) -> None:
    compute = choose_compute(name, threads=1)
    needs = MemoryNeeds.of(ensemble, compute)
    model = ElasticModel.load(ensemble, kv_pages=4, compute=compute)
    last, best = model.max_position, logits(model)
    weights = {module: model.weights_of(module)[1] for module in ensemble.specs}
    published: list[int] = []
    model.on_published = published.append
    move(model, last)
    assert published == list(range(1, last + 1))
    assert model.resident_bytes().mapped == needs.mapped[last] < needs.mapped[0]
    assert {model.weights_of(module)[0] for module in ensemble.specs} == {1}
    smallest = logits(model)
    assert not torch.equal(smallest, best)
    assert torch.equal(smallest, fresh_logits(ensemble, compute, last))
    move(model, 0)
    assert torch.equal(logits(model), best)
    for module, expected in weights.items():
        assert np.array_equal(model.weights_of(module)[1], expected)
    assert model.resident_bytes().scratch == needs.scratch
    model.close()
    model.close()  # closing twice is allowed


@pytest.mark.parametrize("name", KERNELS)
def test_all_give_nearly_the_same_logits(name: str, ensemble: Ensemble) -> None:
    expected = fresh_logits(ensemble, choose_compute(TORCH, threads=1), 3)
    found = fresh_logits(ensemble, choose_compute(name, threads=2), 3)
    assert ((found - expected).norm(dim=1) <= 3e-2 * expected.norm(dim=1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_takes_whole_cache_lines_and_little_more_than_its_payload(name: str, ensemble: Ensemble) -> None:
    compute = choose_compute(name, threads=1)
    for specs in exl2_specs(ensemble).values():
        for spec in specs:
            size = compute.size_bytes(spec)
            assert size % 64 == 0
            assert spec.payload <= size <= spec.payload + 64 * len(spec.entries) + 26 * len(spec.runs) * 64


@pytest.mark.parametrize("name", NAMES)
def test_what_fills_arenas_fills_all_of_a_layer_and_nothing_else(name: str, ensemble: Ensemble, tmp_path: Path) -> None:
    compute = choose_compute(name, threads=1)
    fill = compute.filler(ensemble, lambda: None)
    for specs in ensemble.specs.values():
        for spec in specs:
            size = compute.size_bytes(spec)
            buffers = []
            for pattern in (0x00, 0xFF):
                buffer = torch.full((size + 128,), pattern, dtype=torch.uint8)
                start = -buffer.data_ptr() % 64
                fill(spec, buffer.numpy().data[start : start + size])
                assert buffer[:start].eq(pattern).all()
                assert buffer[start + size :].eq(pattern).all()
                buffers.append(buffer[start : start + size])
            # Bytes that nobody fills, between the parts, keep their pattern: fewer than a line behind each part.
            assert int((buffers[0] != buffers[1]).sum()) < 64 * len(spec.entries)
