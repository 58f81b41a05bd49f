from pathlib import Path

import numpy as np
import pytest
import torch

from flexquant.engine.errors import CheckpointError
from flexquant.engine.mapped_embedding import MappedEmbedding
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.tensor_index import TensorEntry

SPELLING = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def write_table(path: Path, table: torch.Tensor, offset: int = 0) -> TensorEntry:
    data = table.contiguous().view(torch.uint8).numpy().tobytes()
    path.write_bytes(b"\x55" * offset + data)
    return TensorEntry("embedding", SPELLING[table.dtype], tuple(table.shape), path, offset, len(data))


@pytest.mark.parametrize("dtype", SPELLING)
@pytest.mark.parametrize("offset", [0, 8, 13, 5000])
def test_rows_are_the_tables_rows(tmp_path: Path, dtype: torch.dtype, offset: int) -> None:
    table = torch.randn(50, 24).to(dtype)
    embedding = MappedEmbedding(write_table(tmp_path / "table", table, offset))
    tokens = np.array([0, 49, 7, 7, 13])

    rows = embedding.rows(tokens)

    assert rows.dtype == np.float32
    assert torch.equal(torch.from_numpy(rows), table[torch.from_numpy(tokens)].float())
    assert embedding.mapped_bytes == table.nbytes


def test_rows_are_copies(tmp_path: Path) -> None:
    embedding = MappedEmbedding(write_table(tmp_path / "table", torch.ones(4, 4)))
    embedding.rows(np.array([2])).fill(0)
    assert np.array_equal(embedding.rows(np.array([2])), np.ones((1, 4)))


def test_no_rows(tmp_path: Path) -> None:
    embedding = MappedEmbedding(write_table(tmp_path / "table", torch.ones(4, 6)))
    assert embedding.rows(np.empty(0, np.int64)).shape == (0, 6)


def test_the_table_is_never_copied_as_a_whole(tmp_path: Path) -> None:
    entry = write_table(tmp_path / "table", torch.zeros(64_000, 256, dtype=torch.float16))  # 32 MB
    before = anonymous_bytes()
    embedding = MappedEmbedding(entry)
    embedding.rows(np.array([0, 31_000, 63_999]))
    assert anonymous_bytes() - before < 8 << 20


@pytest.mark.parametrize("token", [-1, 4, 1 << 40])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path, token: int) -> None:
    embedding = MappedEmbedding(write_table(tmp_path / "table", torch.ones(4, 4)))
    with pytest.raises(IndexError, match=str(token)):
        embedding.rows(np.array([1, token]))


@pytest.mark.parametrize(("dtype", "shape"), [("I32", (4, 4)), ("F32", (16,)), ("F32", (0, 4))])
def test_what_is_no_table_is_refused(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    (tmp_path / "table").write_bytes(bytes(64))
    entry = TensorEntry("embedding", dtype, shape, tmp_path / "table", 0, 64 if shape[0] else 0)
    with pytest.raises(CheckpointError, match="embedding"):
        MappedEmbedding(entry)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    entry = TensorEntry("embedding", "F32", (4, 4), tmp_path / "gone.safetensors", 0, 64)
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        MappedEmbedding(entry)
