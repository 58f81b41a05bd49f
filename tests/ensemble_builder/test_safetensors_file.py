"""The writer's files, read by the safetensors library and by the engine."""

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from flexquant.engine.errors import CheckpointError, FlexQuantError
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.safetensors_file import write_safetensors

TYPES = [torch.float32, torch.float16, torch.int32, torch.int16]


def read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no mapping


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    names = draw(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=6))
    return {
        name: (100 * torch.randn(draw(st.lists(st.integers(0, 5), max_size=3)), generator=generator)).to(
            draw(st.sampled_from(TYPES))
        )
        for name in names
        if name != "__metadata__"
    }


@given(tensors=tensor_sets())
@settings(deadline=None, max_examples=40)
def test_the_library_reads_what_was_written(
    tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("safetensors") / "file.safetensors"
    write_safetensors(path, tensors)
    found = read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_tensors_of_other_files_are_copied(tmp_path: Path) -> None:
    first, second = torch.randn(3, 4), torch.arange(7, dtype=torch.int16)
    write_safetensors(tmp_path / "parts" / "1.safetensors", {"first": first})
    write_safetensors(tmp_path / "parts" / "2.safetensors", {"second": second})
    index = TensorIndex.open(tmp_path / "parts")
    write_safetensors(tmp_path / "whole.safetensors", {name: index[name] for name in index.names()})
    found = read(tmp_path / "whole.safetensors")
    assert torch.equal(found["first"], first)
    assert torch.equal(found["second"], second)


def test_every_tensor_is_aligned_to_its_type(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "file.safetensors",
        {"a": torch.zeros(3, dtype=torch.int16), "b": torch.zeros(5, dtype=torch.int32), "c": torch.zeros(1).half()},
    )
    index = TensorIndex.open(tmp_path)
    assert [index[name].offset % size for name, size in (("a", 2), ("b", 4), ("c", 2))] == [0, 0, 0]


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    matrix = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    write_safetensors(tmp_path / "file.safetensors", {"transposed": matrix.T, "column": matrix[:, 1]})
    found = read(tmp_path / "file.safetensors")
    assert torch.equal(found["transposed"], matrix.T)
    assert torch.equal(found["column"], matrix[:, 1])


def test_a_file_that_shrank_meanwhile_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "parts" / "1.safetensors", {"tensor": torch.zeros(100)})
    entry = TensorIndex.open(tmp_path / "parts")["tensor"]
    os.truncate(entry.file, entry.offset + 8)
    with pytest.raises(CheckpointError, match="truncated"):
        write_safetensors(tmp_path / "out" / "whole.safetensors", {"tensor": entry})
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FlexQuantError, match=r"file\.safetensors: cannot be written: No space left"):
        write_safetensors(tmp_path / "file.safetensors", {"tensor": torch.zeros(1)})
