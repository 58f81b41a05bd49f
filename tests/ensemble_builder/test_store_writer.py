"""Stores: what is shared, what is copied, and what is refused."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from flexquant.engine.errors import CheckpointError, FlexQuantError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.torch_tensors import read_tensor
from flexquant.ensemble_builder.safetensors_file import write_safetensors
from flexquant.ensemble_builder.store_writer import (
    COMMON_NAME,
    common_tensors,
    exl2_quantization,
    share,
    write_store,
)
from support.dense_checkpoint import TOKENIZER_FILES, dense_checkpoint

CALIBRATION = Text(name="text.txt", sha256="0" * 64, tokens=1024)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return dense_checkpoint(tmp_path / "model", dtype="float32")


def test_a_store_says_how_it_was_made_and_keeps_the_checkpoints_settings(checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_safetensors(tmp_path / "parts" / "1.safetensors", {"x.q_weight": torch.zeros(1, dtype=torch.int32)})
    index = TensorIndex.open(tmp_path / "parts")
    common = common_tensors(TensorIndex.open(checkpoint), read_model_config(checkpoint))
    write_store(
        store,
        checkpoint,
        common=common,
        quantized={name: index[name] for name in index.names()},
        quantization=exl2_quantization(3.5, CALIBRATION),
    )
    settings = json.loads((store / "config.json").read_bytes())
    assert settings.pop("quantization_config") == {
        "quant_method": "exl2",
        "version": "0.3.2",
        "bits": 3.5,
        "head_bits": 6,
        "calibration": {"dataset": "text.txt", "tokens": 1024},
    }
    assert settings == json.loads((checkpoint / "config.json").read_bytes())
    for name in TOKENIZER_FILES:
        assert (store / name).read_bytes() == (checkpoint / name).read_bytes()
    assert TensorIndex.open(store).names() == sorted([*common, "x.q_weight"])


def test_embedding_and_norms_become_half_precision(checkpoint: Path) -> None:
    index, config = TensorIndex.open(checkpoint), read_model_config(checkpoint)
    found = common_tensors(index, config)
    assert set(found) == {"model.embed_tokens.weight", *config.norms()}
    for name, tensor in found.items():
        assert torch.equal(tensor, read_tensor(index, name).half())


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    folder = dense_checkpoint(tmp_path / "model")
    index, config = TensorIndex.open(folder), read_model_config(folder)
    tensors = {name: read_tensor(index, name).float() for name in index.names()}
    tensors["model.norm.weight"][3] = 1e6
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has values that are not finite in float16"):
        common_tensors(TensorIndex.open(folder), config)


def test_stores_share_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    share(tmp_path / "a", tmp_path / "store" / "b")
    share(tmp_path / "a", tmp_path / "store" / "b")
    assert (tmp_path / "store" / "b").samefile(tmp_path / "a")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["b"]


def test_sharing_replaces_an_older_file_and_a_leftover(tmp_path: Path) -> None:
    for name, content in (("a", b"new"), ("b", b"old"), ("b.part", b"left over")):
        (tmp_path / name).write_bytes(content)
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not (tmp_path / "b.part").exists()


def test_where_links_fail_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "a").write_bytes(b"content")
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with pytest.raises(FlexQuantError, match=f"a/{COMMON_NAME}: cannot be written"):
        share(tmp_path / "a", tmp_path / "a" / COMMON_NAME)
