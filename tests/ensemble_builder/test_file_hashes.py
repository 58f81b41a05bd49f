"""Hashes of files and checkpoints."""

import hashlib
from pathlib import Path

import pytest

from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256, file_record, file_records


def test_a_record_has_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    record = file_record(tmp_path / "a")
    assert (record.bytes, record.sha256) == (7, hashlib.sha256(b"content").hexdigest())


def test_records_are_in_order_and_relative(tmp_path: Path) -> None:
    (tmp_path / "levels").mkdir()
    paths = [tmp_path / "levels" / "b", tmp_path / "levels" / "a"]
    for path in paths:
        path.write_bytes(b"")
    assert list(file_records(tmp_path, paths)) == ["levels/a", "levels/b"]


def test_a_checkpoint_is_what_its_outputs_depend_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = checkpoint_sha256(tmp_path)
    (tmp_path / "README.md").write_text("About it.")
    assert checkpoint_sha256(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert checkpoint_sha256(tmp_path) != before


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        file_record(tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        checkpoint_sha256(tmp_path / "nowhere")
