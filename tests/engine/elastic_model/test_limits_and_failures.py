"""What a model refuses, and what it does when its stores are damaged."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import CheckpointError, ContextLengthError, EnsembleError, SwapError
from support.elastic_models import carry_out, logits, move

STORE = "levels/3.0/quantized.safetensors"


def test_sequences_longer_than_the_context_are_refused(ensemble: Ensemble) -> None:
    model = ElasticModel.load(ensemble, context=64, kv_pages=4)
    with pytest.raises(ContextLengthError, match="65 tokens exceed the context of 64") as raised:
        model.new_sequence(65)
    assert (raised.value.tokens, raised.value.limit) == (65, 64)
    model.close()


@pytest.mark.parametrize("position", [-1, 23])
def test_start_positions_outside_the_sequence_are_refused(ensemble: Ensemble, position: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.22"):
        ElasticModel.load(ensemble, position=position, kv_pages=4)


def test_unknown_sequences_are_refused(ensemble: Ensemble) -> None:
    with pytest.raises(EnsembleError, match="no 'fast'"):
        ElasticModel.load(ensemble, sequence="fast", kv_pages=4)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _remove(path: Path) -> None:
    path.unlink()


def _replace_by_another_model(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000:] = random.Random(1).randbytes(1000)
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _remove, _replace_by_another_model])
def test_a_store_damaged_while_serving(own_folder: Path, damage: Callable[[Path], None]) -> None:
    """The position stays, the model answers, and the next move works once the file is whole again."""
    path = own_folder / STORE
    whole = path.read_bytes()
    model = ElasticModel.load(Ensemble.open(own_folder), kv_pages=8)
    move(model, 2)
    before = logits(model)
    damage(path)
    future = model.move_to(10)
    with pytest.raises(SwapError, match=rf"stays at position 2; .*{STORE}"):
        carry_out(model, future)
    assert (model.position, model.moving) == (2, False)
    assert STORE in str(model.last_error)
    assert torch.equal(logits(model), before)
    path.write_bytes(whole)
    move(model, 10)
    assert model.last_error is None
    model.close()


def test_a_store_replaced_by_an_identical_copy_is_read(own_folder: Path) -> None:
    model = ElasticModel.load(Ensemble.open(own_folder), kv_pages=8)
    whole = (own_folder / STORE).read_bytes()
    (own_folder / STORE).unlink()
    (own_folder / STORE).write_bytes(whole)
    move(model, model.max_position)
    model.close()


def test_a_store_damaged_after_opening(own_folder: Path) -> None:
    ensemble = Ensemble.open(own_folder)
    _truncate(own_folder / "levels/8.0/quantized.safetensors")
    with pytest.raises(CheckpointError, match=r"8\.0/quantized\.safetensors"):
        ElasticModel.load(ensemble, kv_pages=8)
