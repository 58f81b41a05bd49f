"""Quantizing a whole model: what the stores hold, and the same bytes whatever happened on the way."""

import io
import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexquant.engine.errors import UnsupportedModelError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import HEAD, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.any_precision import quantize_model as module
from flexquant.ensemble_builder.any_precision.fisher import layer_information
from flexquant.ensemble_builder.any_precision.quantize_model import quantize_model
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.stores import open_store
from support.any_precision_files import weights_of
from support.dense_checkpoint import dense_checkpoint
from support.quantizing import token_windows

LEVELS = (7.0, 4.0, 3.0)
LAYERS = 3
CALIBRATION = Text(name="text", sha256="0" * 64, tokens=256)


def quantize(checkpoint: Path, out: Path, **changes: Any) -> str:
    shown = io.StringIO()
    given: dict[str, Any] = {"levels": LEVELS, "windows": token_windows(), "calibration": CALIBRATION}
    quantize_model(checkpoint, out=out, progress=Progress(shown, environment={}), **(given | changes))
    return shown.getvalue()


def contents(out: Path) -> dict[str, bytes]:
    folder = out / "levels"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize") / "model"
    return dense_checkpoint(folder, architecture="qwen2", layers=LAYERS, dtype="float32")


@pytest.fixture(scope="module")
def done(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done")
    shown = quantize(checkpoint, out)
    parts = 7 * LAYERS + 1
    assert f"quantizing: {parts}/{parts} in " in shown
    return out


def stores(out: Path) -> list[Path]:
    """From the smallest to the best."""
    return [out / "levels" / str(level) for level in reversed(LEVELS)]


def test_every_store_has_what_it_adds(done: Path) -> None:
    expected = {
        "3.0": {"mlp.up_proj.planes": (3, 96, 2), "mlp.up_proj.table": (96, 8), "self_attn.q_proj.bias": (64,)},
        "4.0": {"mlp.up_proj.planes": (1, 96, 2), "mlp.up_proj.table": (96, 16)},
        "7.0": {"mlp.up_proj.planes": (3, 96, 2), "mlp.up_proj.table": (96, 128)},
    }
    for name, found in expected.items():
        index = TensorIndex.open(done / "levels" / name)
        assert {tensor: index[f"model.layers.1.{tensor}"].shape for tensor in found} == found
        assert ("model.layers.1.self_attn.q_proj.bias" in index) == (name == "3.0")
    settings = {
        name: json.loads((done / "levels" / name / "config.json").read_bytes())["quantization_config"]
        for name in expected
    }
    assert [(found["bits"], found["below"]) for found in settings.values()] == [(3, None), (4, 3), (7, 4)]
    assert {found["quant_method"] for found in settings.values()} == {"flexquant-any-precision"}


def test_the_head_has_six_bits_and_more(done: Path) -> None:
    for name, found in {"3.0": (6, 100, 2), "4.0": None, "7.0": (1, 100, 2)}.items():
        index = TensorIndex.open(done / "levels" / name)
        assert (index[f"{HEAD}.planes"].shape if f"{HEAD}.planes" in index else None) == found


def test_weights_come_back_the_closer_the_more_bits_they_have(checkpoint: Path, done: Path) -> None:
    """By a reader that the stores' own has nothing to do with; both read the same."""
    config = read_model_config(checkpoint)
    dense = DenseWeights(TensorIndex.open(checkpoint), config)
    for shape in config.linears():
        weight = dense.weight(shape.key).numpy()
        errors = []
        for count, level in enumerate(reversed(LEVELS), start=1):
            found = weights_of(stores(done)[:count], shape.key)
            opened = open_store(done / "levels" / str(level), str(level), level).opened()
            assert np.array_equal(opened.weight(shape.key).numpy(), found)
            errors.append(float(((found - weight) ** 2).sum() / (weight**2).sum()) ** 0.5)
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.03
        assert errors[0] < (0.03 if shape.key == HEAD else 0.3)
        bias = dense.bias(shape.key)
        kept = opened.bias(shape.key)
        assert (bias is None) == (kept is None)
        if bias is not None and kept is not None:
            assert torch.equal(kept, bias.half().float())


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def stopping_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which fails at its nth call."""
    calls = iter(range(call))

    def stopped(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise StoppedError
        return function(*args, **kwargs)

    return stopped


@pytest.mark.parametrize(
    ("stage", "call"),
    [
        ("run_layer", 0),
        ("run_layer", 2),
        ("head_information", 0),
        ("layer_information", 0),
        ("layer_information", 2),
        ("write_stores", 0),
    ],
)
def test_a_run_goes_on_where_it_stopped(
    stage: str, call: int, checkpoint: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = getattr(module, stage)
    monkeypatch.setattr(module, stage, stopping_at(call, function))
    with pytest.raises(StoppedError):
        quantize(checkpoint, tmp_path)
    monkeypatch.undo()
    calls: list[object] = []

    def noted(*args: Any) -> Any:
        calls.append(args)
        return function(*args)

    monkeypatch.setattr(module, stage, noted)
    quantize(checkpoint, tmp_path)
    assert contents(tmp_path) == contents(done)
    if stage in ("run_layer", "layer_information"):
        assert len(calls) == LAYERS - call
    assert not list((tmp_path / ".work" / "quantization").glob("*/"))


def test_killed_at_random_moments_it_ends_with_the_same_bytes(checkpoint: Path, done: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flexquant.ensemble_builder.any_precision.quantize_model"])

    def start(out: Path) -> Any:
        process = context.Process(target=quantize, args=(checkpoint, out))
        process.start()
        return process

    start(tmp_path / "first").join()  # the first process waits for the imports
    began = time.monotonic()
    start(tmp_path / "second").join()
    seconds = time.monotonic() - began
    rng, codes = random.Random(0), []
    for number in range(3):
        process = start(tmp_path / str(number))
        process.join(rng.uniform(0.2, 0.9) * seconds)
        process.kill()
        process.join()
        codes.append(process.exitcode)
        quantize(checkpoint, tmp_path / str(number))
        assert contents(tmp_path / str(number)) == contents(done)
    assert -signal.SIGKILL in codes


def test_other_settings_start_anew(
    checkpoint: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "layer_information", stopping_at(1, layer_information))
    with pytest.raises(StoppedError):
        quantize(checkpoint, tmp_path, windows=token_windows(seed=1))
    monkeypatch.undo()
    quantize(checkpoint, tmp_path)
    assert contents(tmp_path) == contents(done)


def test_sizes_that_the_format_does_not_have_are_refused(tmp_path: Path) -> None:
    odd = dense_checkpoint(tmp_path / "odd", intermediate=80)
    with pytest.raises(UnsupportedModelError, match="down_proj has 80 inputs; Any-Precision needs a multiple of 32"):
        quantize(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()
