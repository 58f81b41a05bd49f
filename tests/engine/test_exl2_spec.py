from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.groups import CODES_PER_PERIOD, runs
from flexquant.engine.exl2.spec import Exl2Spec, is_quantized, read_spec
from flexquant.engine.tensor_index import TensorIndex, read_into
from support.checkpoints import write_safetensors
from support.exl2_fixtures import Exl2Layer, random_layer

Tensors = dict[str, NDArray[np.generic]]
MIXED = [(6, 64), (6, 64), (6, 32), (4, 32), (4, 32), (3, 128)]


def spec_of(
    layer: Exl2Layer, folder: Path, *, in_features: int | None = None, out_features: int | None = None
) -> Exl2Spec:
    """Read the layer back, by default with the sizes that it has."""
    layer.write(folder)
    return read_spec(
        TensorIndex.open(folder),
        "layer",
        in_features=in_features or layer.in_features,
        out_features=out_features or layer.out_features,
        bias=layer.bias,
    )


def test_a_layer_of_mixed_widths_and_group_sizes(tmp_path: Path) -> None:
    layer = random_layer(MIXED, 50, bias=True)
    spec = spec_of(layer, tmp_path)
    assert (spec.in_features, spec.out_features, spec.padded_out) == (352, 50, 64)
    assert [(run.bits, run.rows_per_group, run.groups) for run in spec.runs] == [
        (6, 64, 2),
        (6, 32, 1),
        (4, 32, 2),
        (3, 128, 1),
    ]
    code_bits = sum(bits * rows for bits, rows in MIXED)
    per_group = 16 + 2 * 16 + 4 * 64  # the maximum, two numbers of the group table, four bits per column
    assert 8 * spec.payload == 64 * code_bits + len(MIXED) * per_group + 32 * 352 + 16 * 50
    assert {entry.name for entry in spec.entries.values()} == {f"layer.{suffix}" for suffix in layer.tensors}


@pytest.mark.parametrize("padded_bias", [False, True])
def test_slices_add_up_to_the_layer(tmp_path: Path, padded_bias: bool) -> None:
    layer = random_layer(MIXED, 180, bias=True)
    if padded_bias:
        layer.tensors["bias"] = np.concatenate([layer.tensors["bias"], np.zeros(12, np.float16)])
    whole = spec_of(layer, tmp_path)
    slices = [whole.sliced(columns) for columns in [(0, 32), (32, 160), (160, 180)]]
    assert [(spec.out_features, spec.padded_out) for spec in slices] == [(32, 32), (128, 128), (20, 32)]
    index = TensorIndex.open(tmp_path)
    for suffix in ("q_weight", "q_scale", "bias"):
        parts = []
        for spec in slices:
            entry = spec.entries[suffix]
            buffer = bytearray(entry.nbytes)
            read_into(entry, memoryview(buffer))
            parts.append(np.frombuffer(buffer, layer.tensors[suffix].dtype).reshape(entry.shape))
        assert np.array_equal(np.concatenate(parts, axis=-1), layer.tensors[suffix])
        assert sum(spec.entries[suffix].nbytes for spec in slices) == index[f"layer.{suffix}"].nbytes
    for suffix in ("q_scale_max", "q_groups", "q_invperm"):
        assert all(spec.entries[suffix] == whole.entries[suffix] for spec in slices)
    copies = 2 * (2 * len(MIXED) + 4 * len(MIXED) + 4 * 352)
    assert sum(spec.payload for spec in slices) - whole.payload == copies
    assert all((spec.runs, spec.order) == (whole.runs, whole.order) for spec in slices)


def test_the_whole_layer_is_a_slice_too(tmp_path: Path) -> None:
    whole = spec_of(random_layer(MIXED, 50, bias=True), tmp_path)
    assert whole.sliced(None) == whole.sliced((0, 50)) == whole


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ((0, 0), "is no range"),
        ((64, 32), "is no range"),
        ((-32, 32), "is no range"),
        ((64, 128), r"\[64, 128\] is no range of the layer's 100 columns"),
        ((16, 64), "multiples of 32"),
        ((32, 80), "multiples of 32, but for the layer's end at 100"),
    ],
)
def test_where_a_layer_cannot_be_cut(columns: tuple[int, int], what: str, tmp_path: Path) -> None:
    whole = spec_of(random_layer([(4, 64)], 100), tmp_path)
    with pytest.raises(ValueError, match=what):
        whole.sliced(columns)


def test_layers_are_told_apart_by_their_own_tensors(tmp_path: Path) -> None:
    weight = np.zeros((4, 4), dtype=np.float16)
    write_safetensors(
        tmp_path / "a.safetensors", {"head.q_weight": np.zeros((4, 32), np.int32), "other.weight": weight}
    )
    index = TensorIndex.open(tmp_path)
    assert is_quantized(index, "head")
    assert not is_quantized(index, "other")


def test_derived_tensors_in_a_file_are_ignored(tmp_path: Path) -> None:
    layer = random_layer([(4, 64)], 32)
    layer.tensors["q_perm"] = np.zeros(64, dtype=np.int16)
    layer.tensors["q_group_map"] = np.zeros(128, dtype=np.int16)
    spec = spec_of(layer, tmp_path)
    assert "q_perm" not in spec.entries
    assert "q_group_map" not in spec.entries


def test_a_bias_may_be_padded_like_the_columns(tmp_path: Path) -> None:
    layer = random_layer([(4, 64)], 50, bias=True)
    layer.tensors["bias"] = np.zeros(64, dtype=np.float16)
    assert spec_of(layer, tmp_path).entries["bias"].shape == (64,)


def test_first_words_are_unsigned(tmp_path: Path) -> None:
    """Groups may start beyond word 32767, where a signed number would be negative."""
    groups = [(8, 4 * 40_000), (8, 32)]
    tensors: Tensors = {
        "layer.q_weight": np.zeros((40_008, 32), dtype=np.int32),
        "layer.q_scale": np.zeros((2, 4), dtype=np.int32),
        "layer.q_scale_max": np.ones(2, dtype=np.float16),
        "layer.q_groups": np.array([8, 0, 8, 40_000], dtype=np.uint16).view(np.int16),
        "layer.q_invperm": np.arange(160_032, dtype=np.int32),
    }
    write_safetensors(tmp_path / "a.safetensors", tensors)
    spec = read_spec(TensorIndex.open(tmp_path), "layer", in_features=160_032, out_features=32, bias=False)
    assert [run.rows for run in spec.runs] == [rows for _, rows in groups]
    assert spec.runs[1].first_word == 40_000


def without(suffix: str) -> Callable[[Tensors], None]:
    def damage(tensors: Tensors) -> None:
        del tensors[suffix]

    return damage


def set_to(suffix: str, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Callable[[Tensors], None]:
    def damage(tensors: Tensors) -> None:
        tensors[suffix] = change(tensors[suffix])

    return damage


def table(*numbers: int) -> Callable[[Tensors], None]:
    return set_to("q_groups", lambda _: np.array(numbers, dtype=np.uint16).view(np.int16))


DAMAGES = {
    "no q_weight": (without("q_weight"), "q_weight is missing"),
    "no q_scale": (without("q_scale"), "q_scale is missing"),
    "no q_scale_max": (without("q_scale_max"), "q_scale_max is missing"),
    "no q_groups": (without("q_groups"), "q_groups is missing"),
    "no q_invperm": (without("q_invperm"), "q_invperm is missing"),
    "no bias": (without("bias"), "bias is missing"),
    "type of q_weight": (set_to("q_weight", lambda a: a.astype(np.float32)), "q_weight: dtype"),
    "type of q_scale_max": (set_to("q_scale_max", lambda a: a.astype(np.float32)), "q_scale_max: dtype"),
    "type of q_groups": (set_to("q_groups", lambda a: a.astype(np.int32)), "q_groups: dtype"),
    "type of q_invperm": (set_to("q_invperm", lambda a: a.astype(np.int16)), "q_invperm: dtype"),
    "columns of q_weight": (set_to("q_weight", lambda a: a[:, :32]), "q_weight: shape"),
    "dimensions of q_weight": (set_to("q_weight", np.ravel), "q_weight: shape"),
    "groups of q_scale": (set_to("q_scale", lambda a: a[1:]), "q_scale: shape"),
    "columns of q_scale": (set_to("q_scale", lambda a: a[:, 1:]), "q_scale: shape"),
    "groups of q_scale_max": (set_to("q_scale_max", lambda a: a[1:]), "shape"),
    "groups of q_groups": (set_to("q_groups", lambda a: a[2:]), "q_groups: shape"),
    "inputs of q_invperm": (set_to("q_invperm", lambda a: a[1:]), "q_invperm: shape"),
    "length of bias": (set_to("bias", lambda a: a[1:]), "bias: shape"),
    "words of q_weight": (set_to("q_weight", lambda a: a[:-4]), "q_groups: "),
    "width 7": (table(7, 0, 3, 8), "q_groups: group 0 has 7 bits"),
    "width 0": (table(4, 0, 0, 8), "q_groups: group 1 has 0 bits"),
    "first word": (table(4, 1, 3, 8), "q_groups: the first group starts at word 1"),
    "order": (table(4, 0, 3, 60000), "q_groups: group 1 starts at word 60000 and ends at word 14"),
    "rows": (table(4, 0, 4, 8), "q_groups: "),
    "no permutation": (set_to("q_invperm", np.zeros_like), "q_invperm: is not a permutation"),
    "permutation out of range": (
        set_to("q_invperm", lambda a: a.astype(np.int32) + np.int32(1)),
        "q_invperm: is not a permutation",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    layer = random_layer([(4, 64), (3, 64)], 50, bias=True)
    damage, message = DAMAGES[name]
    damage(layer.tensors)
    with pytest.raises(CheckpointError) as raised:
        spec_of(layer, tmp_path)
    assert str(tmp_path) in raised.value.message
    assert "layer." in raised.value.message
    assert message in raised.value.message


@pytest.mark.parametrize(("in_features", "out_features"), [(160, None), (None, 90), (None, 20)])
def test_sizes_are_those_of_the_model(in_features: int | None, out_features: int | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="shape is"):
        spec_of(random_layer([(4, 128)], 50), tmp_path, in_features=in_features, out_features=out_features)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.one_of(st.integers(0, 70), st.sampled_from([*CODES_PER_PERIOD, 65535])), max_size=8),
    st.integers(0, 200),
    st.integers(0, 70),
)
def test_a_group_table_is_whole_or_refused(numbers: list[int], in_features: int, words: int) -> None:
    try:
        found = runs(numbers, in_features, words)
    except ValueError:
        return
    assert sum(run.rows for run in found) == in_features
    assert sum(run.words for run in found) == words
    assert [run.first_row for run in found] == [sum(run.rows for run in found[:i]) for i in range(len(found))]
    assert [run.first_word for run in found] == [sum(run.words for run in found[:i]) for i in range(len(found))]
    assert [run.first_group for run in found] == [sum(run.groups for run in found[:i]) for i in range(len(found))]
