"""What is uploaded is what exllamav2's loader would have made; what its kernels cannot run is refused."""

from pathlib import Path

import numpy as np
import pytest

from flexquant.engine.errors import CheckpointError
from flexquant.engine.exl2.spec import Exl2Spec, read_spec
from flexquant.engine.exllamav2.form import ALIGNMENT, Form, group_map
from flexquant.engine.tensor_index import TensorIndex
from support.exl2_fixtures import Exl2Layer, Groups, random_layer


def spec_of(folder: Path, layer: Exl2Layer) -> Exl2Spec:
    layer.write(folder)
    return read_spec(
        TensorIndex.open(folder),
        "layer",
        in_features=layer.in_features,
        out_features=layer.out_features,
        bias=layer.bias,
    )


def filled(form: Form) -> memoryview:
    buffer = memoryview(bytearray(form.size_bytes))
    form.fill(buffer)
    return buffer


@pytest.mark.parametrize("bias", [False, True])
def test_tensors_lie_aligned_and_are_those_of_the_file(tmp_path: Path, *, bias: bool) -> None:
    layer = random_layer([(6, 64), (6, 32), (3, 32)], 40, seed=0, bias=bias)
    form = Form(spec_of(tmp_path, layer))
    buffer = filled(form)
    assert all(part.offset % ALIGNMENT == 0 for part in form.parts.values())
    for name in ("q_weight", "q_scale", "q_groups"):
        assert np.array_equal(form.view(buffer, name), layer.tensors[name])
    inverse = layer.tensors["q_invperm"]
    assert np.array_equal(form.view(buffer, "q_invperm"), inverse)
    assert np.array_equal(form.view(buffer, "q_perm"), np.argsort(inverse))
    assert form.view(buffer, "q_group_map").tolist() == [
        value for group, rows in enumerate((64, 32, 32)) for left in range(rows, 0, -1) for value in (group, left)
    ]
    assert ("bias" in form.parts) == bias
    if bias:
        found = form.view(buffer, "bias")
        assert len(found) == 64
        assert np.array_equal(found[:40], layer.tensors["bias"][:40])
        assert not found[40:].any()


def test_the_scale_is_rounded_after_its_factor(tmp_path: Path) -> None:
    """As exllamav2 does: values that become subnormal lose bits, and the codes were chosen against that."""
    layer = random_layer([(8, 32)], 32, seed=1, bias=False)
    layer.tensors["q_scale_max"] = np.array([0.0011], np.float16)
    form = Form(spec_of(tmp_path, layer))
    found = form.view(filled(form), "q_scale_max")
    assert found.tolist() == [float(np.float16(np.float32(np.float16(0.0011)) / 256))]
    assert float(found[0]) * 256 != float(np.float16(0.0011))


def test_a_group_map_of_mixed_groups(tmp_path: Path) -> None:
    layer = random_layer([(8, 32), (4, 32), (4, 64)], 32, seed=2, bias=False)
    pairs = group_map(spec_of(tmp_path, layer)).reshape(-1, 2)
    assert pairs[:, 0].tolist() == [0] * 32 + [1] * 32 + [2] * 64
    assert pairs[[0, 31, 32, 63, 64, 127], 1].tolist() == [32, 1, 32, 1, 64, 1]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([(3, 32), (4, 32)], "descending order"),
        ([(8, 16), (4, 32)], "multiple of 32"),
        ([(2, 16), (8, 32)], "descending"),
    ],
)
def test_what_the_kernels_take_for_granted_is_checked(tmp_path: Path, groups: Groups, words: str) -> None:
    layer = random_layer(groups, 32, seed=3, bias=False)
    with pytest.raises(CheckpointError, match=words):
        Form(spec_of(tmp_path, layer))
