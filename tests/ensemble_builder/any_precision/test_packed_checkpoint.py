"""Packed checkpoints: bits come out where the format says they are, and what is damaged is named."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexquant.engine.errors import CheckpointError
from flexquant.ensemble_builder.any_precision.packed_checkpoint import PackedCheckpoint, is_packed, natural_order
from flexquant.ensemble_builder.any_precision.planes import planes_of
from support.any_precision_files import packed_checkpoint, packed_planes
from support.tiny_checkpoint import tiny_checkpoint

COLUMNS = (32, 96, 896, 1024, 1056, 1536, 2048, 4864, 5632)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("width", [1, 3, 8])
def test_bits_come_out_in_natural_order(columns: int, width: int) -> None:
    codes = np.random.default_rng(columns).integers(0, 1 << width, (3, columns), dtype=np.uint8)
    assert np.array_equal(natural_order(packed_planes(codes, width)), planes_of(codes, width, 0, width))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return packed_checkpoint(tmp_path / "packed", tiny_checkpoint(tmp_path / "model"), {}, {"": {4: torch.zeros(1)}}, 3)


def changed(folder: Path, **changes: Any) -> Path:
    """Change fields of the section."""
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["anyprec"] |= changes
    path.write_text(json.dumps(config))
    return folder


def test_its_levels_are_all_widths(packed: Path) -> None:
    assert is_packed(packed)
    assert PackedCheckpoint.open(packed).levels == (4.0, 3.0)
    assert PackedCheckpoint.open(changed(packed, seed_precision=1, parent_precision=3)).levels == (3.0, 2.0)


def test_other_folders_are_none(packed: Path, tmp_path: Path) -> None:
    assert not is_packed(tmp_path / "model")
    assert not is_packed(tmp_path / "nothing")
    (packed / "pytorch_model.bin").unlink()
    assert not is_packed(packed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group_count": 2}, "group_count is not 1"),
        ({"parent_precision": 9}, "3 to 9 bits"),
        ({"seed_precision": 5}, "5 to 4 bits"),
        ({"seed_precision": "3"}, "seed_precision is '3'"),
        ({"parent_precision": None}, "parent_precision is None"),
    ],
)
def test_kinds_that_cannot_be_imported_are_named(packed: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        PackedCheckpoint.open(changed(packed, **changes))


class Harmful:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_nothing_is_run(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": Harmful()}, packed / "pytorch_model.bin")
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("it was run"))
    with pytest.raises(CheckpointError, match="cannot be read as a file of tensors alone"):
        PackedCheckpoint.open(packed)


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"a": 1})])
def test_a_damaged_file_is_named(packed: Path, content: bytes) -> None:
    (packed / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        PackedCheckpoint.open(packed)


def test_a_file_of_something_else_is_named(packed: Path) -> None:
    torch.save([torch.zeros(1)], packed / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="something else than tensors by name"):
        PackedCheckpoint.open(packed)


def test_tensors_are_checked(packed: Path) -> None:
    torch.save({"x": torch.zeros(2), "y": torch.full((2,), torch.inf)}, packed / "pytorch_model.bin")
    found = PackedCheckpoint.open(packed)
    assert found.tensor("x", torch.float32, (2,)).tolist() == [0, 0]
    for name, dtype, shape, said in [
        ("z", torch.float32, (2,), "z is missing"),
        ("x", torch.float16, (2,), "expected torch.float16"),
        ("x", torch.float32, (3,), r"expected torch\.float32 of shape \[3\]"),
        ("y", torch.float32, (2,), "not finite"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            found.tensor(name, dtype, shape)
