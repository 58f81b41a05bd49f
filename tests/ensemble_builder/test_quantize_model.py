"""Quantizing a whole model: the same bytes whatever happened on the way, and little memory."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexquant.engine.errors import CheckpointError, FlexQuantError, UnsupportedModelError, UsageError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from flexquant.engine.weights import DenseWeights, Exl2Weights
from flexquant.ensemble_builder import quantize_model as module
from flexquant.ensemble_builder.layer_inputs import ObservedWeights
from flexquant.ensemble_builder.quantize_layer import quantize_layer
from flexquant.ensemble_builder.safetensors_file import write_safetensors
from support.dense_checkpoint import dense_checkpoint
from support.quantizing import quantize, token_windows

LAYERS = 4
KILLS = 6


def contents(out: Path) -> dict[str, bytes]:
    folder = out / "levels"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense_checkpoint(tmp_path_factory.mktemp("quantize") / "model", layers=LAYERS)


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    quantize(checkpoint, out)
    return contents(out)


def test_the_same_inputs_give_the_same_bytes(checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    shown = quantize(checkpoint, tmp_path)
    assert contents(tmp_path) == undisturbed
    parts = 2 * (7 * LAYERS + 1)
    assert f"quantizing: {parts}/{parts} in " in shown


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.quantizing"])

    def start(out: Path) -> Any:
        process = context.Process(target=quantize, args=(checkpoint, out))
        process.start()
        return process

    start(tmp_path / "first").join()  # the first process waits for the imports
    began = time.monotonic()
    start(tmp_path / "second").join()
    seconds = time.monotonic() - began
    rng = random.Random(0)
    codes = []
    for number in range(KILLS):
        process = start(tmp_path / f"killed {number}")
        process.join(rng.uniform(0.1, 0.9) * seconds)
        process.kill()
        process.join()
        codes.append(process.exitcode)
        quantize(checkpoint, tmp_path / f"killed {number}")
        assert contents(tmp_path / f"killed {number}") == undisturbed
    assert set(codes) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in codes


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def stopping_at(call: int, function: Callable[..., Any], failure: BaseException) -> Callable[..., Any]:
    """Return the function, which fails at its nth call."""
    calls = iter(range(call))

    def stopped(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise failure
        return function(*args, **kwargs)

    return stopped


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_a_run_goes_on_at_the_layer_where_it_stopped(
    layer: int, checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "quantize_layer", stopping_at(layer, quantize_layer, StoppedError()))
    with pytest.raises(StoppedError):
        quantize(checkpoint, tmp_path)
    monkeypatch.undo()
    done: list[int | None] = []

    def noted(shapes: Any, *args: Any, **kwargs: Any) -> Any:
        done.append(shapes[0].layer)
        return quantize_layer(shapes, *args, **kwargs)

    monkeypatch.setattr(module, "quantize_layer", noted)
    quantize(checkpoint, tmp_path)
    assert done == [*range(layer, LAYERS), None]
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("call", range(0, 50, 7))
def test_a_disk_that_is_full_at_any_moment_is_reported_and_nothing_is_lost(
    call: int, checkpoint: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", stopping_at(call, os.fsync, full))
    with pytest.raises(FlexQuantError, match="No space left") as caught:
        quantize(checkpoint, tmp_path / "out")
    assert str(tmp_path / "out") in caught.value.message
    assert caught.value.hint is not None
    assert not list((tmp_path / "out").rglob("*.part"))
    monkeypatch.undo()
    quantize(checkpoint, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed


CHANGES: dict[str, dict[str, Any]] = {
    "other tokens": {"windows": token_windows(seed=1)},
    "another text": {"calibration": Text(name="other", sha256="1" * 64, tokens=256)},
    "other levels": {"levels": (8.0, 3.0)},
    "larger groups": {"group_size": 64},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_settings_start_anew(
    change: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(checkpoint, tmp_path / "fresh", **CHANGES[change])
    monkeypatch.setattr(module, "quantize_layer", stopping_at(3, quantize_layer, StoppedError()))
    with pytest.raises(StoppedError):
        quantize(checkpoint, tmp_path / "changed")
    monkeypatch.undo()
    quantize(checkpoint, tmp_path / "changed", **CHANGES[change])
    assert contents(tmp_path / "changed") == contents(tmp_path / "fresh")


def test_finished_work_is_not_done_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(checkpoint, tmp_path)
    monkeypatch.setattr(module, "quantize_layer", stopping_at(0, quantize_layer, StoppedError()))
    assert quantize(checkpoint, tmp_path) == ""


def test_one_layers_weights_are_in_memory_at_a_time(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[ObservedWeights] = weakref.WeakSet()
    most = 0

    def noted(shapes: Any, weights: ObservedWeights, *args: Any, **kwargs: Any) -> Any:
        nonlocal most
        alive.add(weights)
        most = max(most, len(alive))
        return quantize_layer(shapes, weights, *args, **kwargs)

    monkeypatch.setattr(module, "quantize_layer", noted)
    quantize(checkpoint, tmp_path)
    assert most == 1


def test_weights_come_back_the_closer_the_more_bits_they_have(checkpoint: Path, tmp_path: Path) -> None:
    levels = (8.0, 6.0, 4.0, 2.0)
    quantize(checkpoint, tmp_path, levels=levels)
    config = read_model_config(checkpoint)
    dense = DenseWeights(TensorIndex.open(checkpoint), config)
    errors = []
    for level in levels:
        store = Exl2Weights(TensorIndex.open(tmp_path / "levels" / str(level)), config)
        decoder = [shape.key for shape in config.linears() if shape.layer is not None]
        off = sum((store.weight(key) - dense.weight(key)).square().sum().item() for key in decoder)
        errors.append((off / sum(dense.weight(key).square().sum().item() for key in decoder)) ** 0.5)
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] < 0.6


def damaged(checkpoint: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    shutil.copytree(checkpoint, folder)
    index = TensorIndex.open(folder)
    tensors = {name: read_tensor(index, name).float() for name in index.names()}
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def test_a_weight_that_is_not_a_number_is_named(checkpoint: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan

    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj has values that are not finite"):
        quantize(damaged(checkpoint, tmp_path / "model", change), tmp_path / "out")


def test_activations_that_overflow_are_reported_with_their_layer(checkpoint: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.input_layernorm.weight"].fill_(1e38)

    with pytest.raises(FlexQuantError, match=r"layers\.1\.self_attn\.q_proj: .* not finite"):
        quantize(damaged(checkpoint, tmp_path / "model", change), tmp_path / "out")


def test_more_damping_than_asked_for_is_said(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def indefinite(self: ObservedWeights, key: str) -> Tensor:
        hessian = take(self, key)
        return hessian - 1.5 * hessian.diagonal().mean() * torch.eye(len(hessian))

    take = ObservedWeights.take_hessian
    monkeypatch.setattr(ObservedWeights, "take_hessian", indefinite)
    shown = quantize(checkpoint, tmp_path / "out")
    assert "model.layers.0.self_attn.q_proj: the Hessian is not positive definite" in shown


def test_a_tensor_that_is_missing_is_named(checkpoint: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.2.self_attn.o_proj.weight"]

    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.self_attn\.o_proj\.weight is missing"):
        quantize(damaged(checkpoint, tmp_path / "model", change), tmp_path / "out")


def test_sizes_that_the_format_does_not_have_are_refused(tmp_path: Path) -> None:
    odd = dense_checkpoint(tmp_path / "odd", intermediate=80)
    with pytest.raises(UnsupportedModelError, match="down_proj has 80 inputs; EXL2 needs a multiple of 32"):
        quantize(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("group_size", [0, -32, 48])
def test_group_sizes_that_the_format_does_not_have_are_refused(
    group_size: int, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"group size {group_size}"):
        quantize(checkpoint, tmp_path / "out", group_size=group_size)


def test_an_output_folder_that_cannot_be_made_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FlexQuantError, match=r"file/out.* cannot be written"):
        quantize(checkpoint, tmp_path / "file" / "out")


def test_larger_groups_have_fewer_scales(checkpoint: Path, tmp_path: Path) -> None:
    quantize(checkpoint, tmp_path, group_size=64)
    index = TensorIndex.open(tmp_path / "levels" / "8.0")
    assert index["model.layers.0.self_attn.q_proj.q_scale_max"].shape == (1,)
    assert index["model.layers.0.mlp.down_proj.q_scale_max"].shape == (2,)
