from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexquant.engine.any_precision.spec import is_quantized, read_spec
from flexquant.engine.errors import CheckpointError
from flexquant.engine.tensor_index import TensorEntry, TensorIndex, read_into
from support.any_precision_layers import AnyPrecisionLayer, layers, random_layer
from support.checkpoints import write_safetensors

Tensors = dict[str, NDArray[np.generic]]


def content(entry: TensorEntry) -> bytes:
    buffer = bytearray(entry.nbytes)
    read_into(entry, memoryview(buffer))
    return bytes(buffer)


def test_levels_of_a_layer(tmp_path: Path) -> None:
    specs = random_layer(96, 50, (3, 4, 6), bias=True).specs(tmp_path)
    assert [(spec.below, spec.bits, spec.residual) for spec in specs] == [(0, 3, False), (3, 4, True), (4, 6, True)]
    planes, table = 50 * 96 // 8, 50 * 2
    expected = [3 * planes + 8 * table + 100, planes + 16 * table, 2 * planes + 64 * table]
    assert [spec.payload for spec in specs] == expected
    assert all(spec.whole and spec.padded_out == spec.out_features == 50 for spec in specs)
    assert [list(spec.entries) for spec in specs] == [["planes", "table", "bias"]] + [["planes", "table"]] * 2
    index = TensorIndex.open(tmp_path / "3")
    assert is_quantized(index, "layer")
    assert not is_quantized(index, "other")


@settings(deadline=None, max_examples=30)
@given(layer=layers(), data=st.data())
def test_slices_have_the_bytes_of_their_rows(
    tmp_path_factory: pytest.TempPathFactory, layer: AnyPrecisionLayer, data: st.DataObject
) -> None:
    first = 32 * data.draw(st.integers(0, (layer.out_features - 1) // 32))
    last = min(layer.out_features, first + 32 * data.draw(st.integers(1, 3)))
    for spec, tensors in zip(layer.specs(tmp_path_factory.mktemp("store")), layer.tensors, strict=True):
        part = spec.sliced((first, last))
        assert part.out_features == last - first
        assert part.whole == (last - first == layer.out_features)
        assert content(part.entries["planes"]) == tensors["planes"][:, first:last].tobytes()
        assert content(part.entries["table"]) == tensors["table"][first:last].tobytes()
        if "bias" in part.entries:
            assert content(part.entries["bias"]) == tensors["bias"][first:last].tobytes()
        assert part.payload == sum(len(content(entry)) for entry in part.entries.values())


def test_a_cut_elsewhere_is_refused(tmp_path: Path) -> None:
    (spec,) = random_layer(32, 64, (3,)).specs(tmp_path)
    assert spec.sliced(None) is spec
    with pytest.raises(ValueError, match="multiples of 32"):
        spec.sliced((0, 20))


@pytest.mark.parametrize("padded", [False, True])
def test_a_bias_may_be_padded(tmp_path: Path, padded: bool) -> None:
    layer = random_layer(32, 50, (3,), bias=True)
    tensors = {f"layer.{name}": tensor for name, tensor in layer.tensors[0].items()}
    if padded:
        tensors["layer.bias"] = np.concatenate([tensors["layer.bias"], np.zeros(14, np.float16)])
    write_safetensors(tmp_path / "quantized.safetensors", tensors)
    spec = read_spec(TensorIndex.open(tmp_path), "layer", in_features=32, out_features=50, bias=True)
    assert spec.entries["bias"].shape == (64 if padded else 50,)


def _changed(name: str, tensor: NDArray[np.generic]) -> Tensors:
    layer = random_layer(64, 40, (4,), bias=True)
    return {f"layer.{suffix}": part for suffix, part in layer.tensors[0].items()} | {f"layer.{name}": tensor}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (_changed("planes", np.zeros((4, 40, 2), np.float16)), "planes: dtype is F16, Any-Precision has I32"),
        (_changed("planes", np.zeros((4, 80), np.int32)), "planes: shape .* wrong number of dimensions"),
        (_changed("planes", np.zeros((4, 40, 3), np.int32)), r"planes: shape .* expected \[4, 40, 2\]"),
        (_changed("planes", np.zeros((1, 40, 2), np.int32)), "planes: has 1 planes on 0 bits"),
        (_changed("planes", np.zeros((9, 40, 2), np.int32)), "planes: has 9 planes on 0 bits"),
        (_changed("table", np.zeros((40, 8), np.float16)), r"table: shape .* expected \[40, 16\]"),
        (_changed("bias", np.zeros(41, np.float16)), r"bias: shape .* expected \[40\]"),
    ],
)
def test_what_breaks_the_format_is_named(tmp_path: Path, tensors: Tensors, match: str) -> None:
    write_safetensors(tmp_path / "quantized.safetensors", tensors)
    with pytest.raises(CheckpointError, match=match) as raised:
        read_spec(TensorIndex.open(tmp_path), "layer", in_features=64, out_features=40, bias=True)
    assert str(tmp_path) in raised.value.message


def test_inputs_must_fill_words(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "quantized.safetensors", _changed("bias", np.zeros(40, np.float16)))
    with pytest.raises(CheckpointError, match="70 inputs, which is no multiple of 32"):
        read_spec(TensorIndex.open(tmp_path), "layer", in_features=70, out_features=40, bias=False)


def test_planes_of_another_level_do_not_fit(tmp_path: Path) -> None:
    """Four planes on three are seven bits, of which the table has none."""
    (base,) = random_layer(64, 40, (3,)).specs(tmp_path / "base")
    write_safetensors(tmp_path / "quantized.safetensors", _changed("bias", np.zeros(40, np.float16)))
    with pytest.raises(CheckpointError, match=r"table: .* expected \[40, 128\] .* 7 bits, 3 of them below"):
        read_spec(TensorIndex.open(tmp_path), "layer", in_features=64, out_features=40, bias=False, base=base)
