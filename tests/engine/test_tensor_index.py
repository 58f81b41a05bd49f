import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

from flexquant.engine import tensor_index
from flexquant.engine.errors import CheckpointError
from flexquant.engine.tensor_index import TensorIndex, read_into
from flexquant.engine.torch_tensors import read_tensor, torch_dtype
from support.checkpoints import safetensors_bytes, write_safetensors

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
HALVES = np.arange(5, dtype=np.float16)


def test_shards_are_one_index_and_a_stale_list_of_them_is_ignored(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "output-00001-of-00002.safetensors", {"a": MATRIX, "b": HALVES})
    write_safetensors(tmp_path / "output-00002-of-00002.safetensors", {"c": MATRIX.astype(np.int32)})
    stale = {"weight_map": {"a": "model-00001-of-00001.safetensors", "gone": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(stale))

    index = TensorIndex.open(tmp_path)
    assert index.names() == ["a", "b", "c"]
    assert "gone" not in index
    assert torch.equal(read_tensor(index, "a"), torch.from_numpy(MATRIX))
    assert torch.equal(read_tensor(index, "b"), torch.from_numpy(HALVES))
    assert torch.equal(read_tensor(index, "c"), torch.from_numpy(MATRIX.astype(np.int32)))
    entry = index["c"]
    assert (entry.name, entry.dtype, entry.shape, entry.nbytes) == ("c", "I32", (3, 4), 48)
    assert entry.file.name == "output-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(3, 5), (1,), (), (0, 4)])
def test_what_the_library_writes_is_read(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.randint(0, 2, shape).to(dtype)
    save_file({"before": torch.ones(3), "t": tensor}, tmp_path / "model.safetensors")
    found = read_tensor(TensorIndex.open(tmp_path), "t")
    assert (found.dtype, found.shape) == (dtype, shape)
    assert torch.equal(found, tensor)


def test_a_tensor_read_is_the_callers_own(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"a": MATRIX})
    index = TensorIndex.open(tmp_path)
    read_tensor(index, "a").zero_()
    index.content("a").fill(0)
    index.floats("a").fill(0)
    assert torch.equal(read_tensor(index, "a"), torch.from_numpy(MATRIX))
    assert index.content("a").tobytes() == MATRIX.tobytes()
    assert np.array_equal(index.floats("a"), MATRIX)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (1,), (), (0, 4)])
def test_floats_are_read_as_float32(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"before": torch.ones(3), "t": tensor}, tmp_path / "model.safetensors")
    found = TensorIndex.open(tmp_path).floats("t")
    assert found.dtype == np.float32
    assert found.shape == shape
    assert torch.equal(torch.from_numpy(found), tensor.float())


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float64, "F64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.int16, "I16"),
        (torch.uint8, "U8"),
        (torch.bool, "BOOL"),
    ],
)
def test_what_are_no_floats_to_read_is_refused(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"t": torch.ones(4).to(dtype)}, file)
    index = TensorIndex.open(tmp_path)
    with pytest.raises(CheckpointError, match=f"tensor t is {name}; expected F16, BF16, F32") as raised:
        index.floats("t")
    assert str(file) in raised.value.message
    assert index.content("t").nbytes == 4 * dtype.itemsize


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4)])
def test_content_is_the_bytes_of_any_type(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    write_safetensors(tmp_path / "a.safetensors", {"before": HALVES, "t": array, "behind": HALVES})
    content = TensorIndex.open(tmp_path).content("t")
    assert content.dtype == np.uint8
    assert content.shape == (array.nbytes,)
    assert content.tobytes() == array.tobytes()


def test_tensors_are_read_into_a_given_place(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"a": MATRIX, "b": HALVES})
    place = bytearray(b"\xee" * 20)
    read_into(TensorIndex.open(tmp_path)["b"], memoryview(place)[5:15])
    assert place == b"\xee" * 5 + HALVES.tobytes() + b"\xee" * 5


@settings(max_examples=60)
@given(data=st.data())
def test_columns_are_read_alone(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any columns of any matrix, any part of their bytes, whether what lies between is read along or not."""
    rows, width = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 12))
    matrix = np.arange(rows * width, dtype=np.int32).reshape(rows, width)
    folder = tmp_path_factory.mktemp("columns")
    write_safetensors(folder / "a.safetensors", {"before": HALVES, "matrix": matrix, "behind": HALVES})
    first = data.draw(st.integers(0, width - 1))
    last = data.draw(st.integers(first + 1, width))
    entry = TensorIndex.open(folder)["matrix"].columns(first, last)
    expected = np.ascontiguousarray(matrix[:, first:last])
    assert (entry.shape, entry.nbytes) == (expected.shape, expected.nbytes)
    assert entry.end == TensorIndex.open(folder)["matrix"].end - 4 * (width - last)
    start = data.draw(st.integers(0, expected.nbytes - 1))
    found = bytearray(data.draw(st.integers(1, expected.nbytes - start)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_index, "_LARGEST_GAP", data.draw(st.sampled_from([0, 16, 1 << 20])))
        read_into(entry, memoryview(found), start)
    assert found == expected.tobytes()[start : start + len(found)]


def test_what_lies_between_wide_rows_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"matrix": np.arange(40_000, dtype=np.int32).reshape(4, 10_000)})
    entry = TensorIndex.open(tmp_path)["matrix"].columns(32, 64)
    counts: list[int] = []
    preadv = os.preadv

    def counted(*arguments: Any) -> int:
        counts.append(preadv(*arguments))
        return counts[-1]

    monkeypatch.setattr(os, "preadv", counted)
    read_into(entry, memoryview(bytearray(entry.nbytes)))
    assert counts == [128] * 4


def test_rows_of_a_matrix_are_read_alone_under_another_name(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"before": HALVES, "matrix": MATRIX})
    index = TensorIndex.open(tmp_path)
    parts = [index["matrix"].rows("top", 0, 1), index["matrix"].rows("rest", 1, len(MATRIX))]
    separate = index.replacing({"matrix": parts})
    assert separate.names() == ["before", "rest", "top"]
    assert read_tensor(separate, "top").equal(torch.from_numpy(MATRIX[:1]))
    assert read_tensor(separate, "rest").equal(torch.from_numpy(MATRIX[1:]))
    assert index.names() == ["before", "matrix"]


def test_elements_of_a_vector_are_read_alone(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"vector": HALVES})
    entry = TensorIndex.open(tmp_path)["vector"].columns(1, 4)
    found = bytearray(6)
    read_into(entry, memoryview(found))
    assert found == HALVES[1:4].tobytes()


@pytest.mark.parametrize("gap", [0, 1 << 20])
def test_columns_of_a_file_that_shrinks_later(tmp_path: Path, gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_index, "_LARGEST_GAP", gap)
    write_safetensors(tmp_path / "a.safetensors", {"matrix": MATRIX})
    entry = TensorIndex.open(tmp_path)["matrix"].columns(1, 3)
    with (tmp_path / "a.safetensors").open("r+b") as stream:
        stream.truncate(entry.end - 2)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: ends within tensor matrix"):
        read_into(entry, memoryview(bytearray(entry.nbytes)))


def test_no_file_no_model(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"no \*\.safetensors file") as raised:
            TensorIndex.open(folder)
        assert str(folder) in raised.value.message


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"a": MATRIX})
    index = TensorIndex.open(tmp_path)
    for read in (index.__getitem__, index.content, index.floats):
        with pytest.raises(CheckpointError, match=r"lm_head\.weight") as raised:
            read("lm_head.weight")
        assert str(tmp_path) in raised.value.message


@settings(deadline=None, max_examples=80)
@given(kept=st.floats(0, 0.999))
def test_every_truncation_is_noticed(tmp_path_factory: pytest.TempPathFactory, kept: float) -> None:
    folder = tmp_path_factory.mktemp("truncated")
    file = folder / "model.safetensors"
    write_safetensors(file, {"a": MATRIX, "b": HALVES})
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"truncated within its header|it is truncated") as raised:
        TensorIndex.open(folder)
    assert str(file) in raised.value.message


def test_a_file_that_shrinks_later_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"a": MATRIX})
    index = TensorIndex.open(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    reads: list[Callable[[str], object]] = [index.content, index.floats, lambda name: read_tensor(index, name)]
    for read in reads:
        with pytest.raises(CheckpointError, match="ends within tensor a"):
            read("a")
    file.unlink()
    for read in reads:
        with pytest.raises(CheckpointError, match="cannot be read"):
            read("a")


def test_one_name_in_two_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"a": MATRIX})
    with pytest.raises(CheckpointError, match=r"two\.safetensors: tensor a is also in one\.safetensors"):
        TensorIndex.open(tmp_path)


def entry(dtype: object = "F16", shape: object = (2,), data_offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


HEADERS: dict[str, tuple[object, str]] = {
    "no JSON": (b"{", "not valid JSON"),
    "deep": (b"[" * 100_000, "not valid JSON"),
    "no UTF-8": (b'{"\xff": 1}', "not valid JSON"),
    "no object": ([], "not a JSON object"),
    "entry is no object": ({"a": 3}, "tensor a: its header entry"),
    "twice": (b'{"a": 1, "a": 2}', "a is there twice"),
    "half a character": ({"\ud800": entry()}, "not valid JSON"),
    "no type": ({"a": {}}, "tensor a: dtype None"),
    "unknown type": ({"a": entry(dtype="F4")}, "tensor a: dtype 'F4' is not supported"),
    "type is a list": ({"a": entry(dtype=["F16"])}, r"tensor a: dtype \['F16'\]"),
    "negative size": ({"a": entry(shape=[-2])}, r"tensor a: shape \[-2\]"),
    "size is true": ({"a": entry(shape=[True, 2])}, "tensor a: shape"),
    "huge size": ({"a": entry(shape=[0, 10**30], data_offsets=[0, 0])}, "tensor a: shape"),
    "huge sizes": ({"a": entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])}, "tensor a: shape"),
    "one offset": ({"a": entry(data_offsets=[0])}, "tensor a: data_offsets"),
    "negative offset": ({"a": entry(data_offsets=[-4, 0])}, "tensor a: data_offsets"),
    "descending": ({"a": entry(data_offsets=[4, 0])}, "tensor a: data_offsets"),
    "huge offset": ({"a": entry(data_offsets=[0, 10**400])}, "tensor a: data_offsets"),
    "beyond the file": ({"a": entry(data_offsets=[1000, 1004])}, "tensor a ends at byte"),
    "too few bytes": ({"a": entry(shape=[3])}, r"tensor a: shape \[3\] of F16 does not take the 4 bytes"),
    "overlap": ({"a": entry(), "b": entry(data_offsets=[2, 6])}, "tensors a and b overlap"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_damaged_headers_are_described(name: str, tmp_path: Path) -> None:
    header, message = HEADERS[name]
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_bytes(header, bytes(16)))
    with pytest.raises(CheckpointError, match=message) as raised:
        TensorIndex.open(tmp_path)
    assert str(file) in raised.value.message
    raised.value.message.encode()  # it can be printed


@pytest.mark.parametrize(
    "content", [b"", b"1234567", b"\xff" * 8, b"\xff" * 100, b"version https://git-lfs.github.com"]
)
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        TensorIndex.open(tmp_path)


def test_a_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        TensorIndex.open(tmp_path)


def test_names_of_types() -> None:
    assert torch_dtype("BF16") is torch.bfloat16
    with pytest.raises(CheckpointError, match="F4"):
        torch_dtype("F4")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "I32", "BOOL", "F8_E5M2", "X"]) | ANYTHING,
        "shape": st.lists(st.integers(-2, 9), max_size=3) | ANYTHING,
        "data_offsets": st.lists(st.integers(-3, 70), min_size=2, max_size=2).map(sorted) | ANYTHING,
    }
)
FILES = st.one_of(
    st.binary(max_size=100),
    st.builds(safetensors_bytes, st.binary(max_size=60), st.binary(max_size=20)),
    st.builds(
        safetensors_bytes, st.dictionaries(st.text(max_size=4), ENTRIES | ANYTHING, max_size=3), st.just(bytes(64))
    ),
    st.builds(safetensors_bytes, ANYTHING, st.just(bytes(64))),
)


@settings(deadline=None, max_examples=500)
@given(content=FILES)
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "model.safetensors").write_bytes(content)
    try:
        index = TensorIndex.open(folder)
    except CheckpointError as error:
        error.message.encode()
        return
    for name in index.names():
        assert read_tensor(index, name).nbytes == index.content(name).nbytes == index[name].nbytes
        assert torch_dtype(index[name].dtype).itemsize * math.prod(index[name].shape) == index[name].nbytes


@settings(deadline=None, max_examples=50)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.lists(st.integers(0, 3), max_size=3).map(lambda shape: np.random.default_rng(len(shape)).random(shape)),
        max_size=5,
    )
)
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, NDArray[np.float64]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    write_safetensors(folder / "model.safetensors", halves)
    index = TensorIndex.open(folder)
    assert index.names() == sorted(halves)
    for name, array in halves.items():
        assert torch.equal(read_tensor(index, name), torch.from_numpy(array))
