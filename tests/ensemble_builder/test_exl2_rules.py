"""The rules that exllamav2's loader relies on, checked on stores that the quantizer wrote.

Source: exllamav2 0.3.2, `module.py`, `ext.py`, `linear.py` and `cuda/q_matrix.cu`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from flexquant.engine.model_config import LinearShape, ModelConfig, read_model_config
from support.dense_checkpoint import TOKENIZER_FILES, dense_checkpoint
from support.quantizing import quantize

LEVELS = (8.0, 5.5, 4.0, 2.5, 2.0)
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "untied llama": {"vocab": 130},
    "tied llama": {"tied": True, "vocab": 96, "dtype": "float32"},
    "qwen2 with biases": {"architecture": "qwen2", "vocab": 100, "intermediate": 160},
}


@dataclass(frozen=True)
class Store:
    """A store, read with nothing of ours: tensors by name, and which of them is in which file."""

    folder: Path
    level: float
    checkpoint: Path
    tensors: dict[str, Tensor]

    @property
    def config(self) -> ModelConfig:
        return read_model_config(self.checkpoint)

    def linears(self) -> Iterator[tuple[LinearShape, dict[str, Tensor]]]:
        for shape in self.config.linears():
            prefix = f"{shape.key}."
            yield shape, {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def groups(self, linear: dict[str, Tensor]) -> list[tuple[int, int, int]]:
        """Return (bits, first word, rows) of each group, as exllamav2 works it out."""
        table = [value & 0xFFFF for value in linear["q_groups"].tolist()]
        bits, first = table[::2], table[1::2]
        rows = [(after - here) * 32 // width for here, after, width in zip(first, first[1:], bits, strict=False)]
        rows.append(len(linear["q_invperm"]) - sum(rows))
        return list(zip(bits, first, rows, strict=True))


def read(folder: Path, level: float, checkpoint: Path) -> Store:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    return Store(folder, level, checkpoint, tensors)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    folder = tmp_path_factory.mktemp("rules")
    checkpoint = dense_checkpoint(folder / "model", **CHECKPOINTS[request.param])
    quantize(checkpoint, folder / "out", levels=LEVELS)
    return [read(folder / "out" / "levels" / str(level), level, checkpoint) for level in LEVELS]


def test_every_linear_has_exactly_its_tensors(stores: list[Store]) -> None:
    for store in stores:
        for shape, linear in store.linears():
            names = {"q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm"} | (
                {"bias"} if shape.bias else set()
            )
            assert linear.keys() == names


def test_types(stores: list[Store]) -> None:
    types = {"q_weight": "int32", "q_scale": "int32", "q_scale_max": "float16", "q_groups": "int16"}
    types |= {"q_invperm": "int32", "bias": "float16"}
    for store in stores:
        for _, linear in store.linears():
            assert {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in linear.items()} == {
                name: types[name] for name in linear
            }


def test_shapes(stores: list[Store]) -> None:
    for store in stores:
        for shape, linear in store.linears():
            padded = -(-shape.out_features // 32) * 32
            groups = len(linear["q_groups"]) // 2
            words = sum(bits * rows for bits, _, rows in store.groups(linear)) // 32
            assert linear["q_weight"].shape == (words, padded)
            assert linear["q_scale"].shape == (groups, padded // 8)
            assert linear["q_scale_max"].shape == (groups,)
            assert linear["q_groups"].shape == (2 * groups,)
            assert linear["q_invperm"].shape == (shape.in_features,)
            assert shape.in_features % 32 == 0
            if shape.bias:
                assert linear["bias"].shape == (padded,)


def test_widths_are_of_the_format_and_fall(stores: list[Store]) -> None:
    for store in stores:
        for _, linear in store.linears():
            widths = [bits for bits, _, _ in store.groups(linear)]
            assert set(widths) <= {2, 3, 4, 5, 6, 8}
            assert widths == sorted(widths, reverse=True)


def test_groups_follow_each_other_without_a_gap(stores: list[Store]) -> None:
    for store in stores:
        for _, linear in store.linears():
            groups = store.groups(linear)
            assert groups[0][1] == 0
            for (bits, first, rows), (_, after, _) in pairwise(groups):
                assert after == first + bits * rows // 32
            bits, first, rows = groups[-1]
            assert first + bits * rows // 32 == len(linear["q_weight"])
            assert all(rows > 0 for _, _, rows in groups)


def test_every_width_has_a_multiple_of_32_rows(stores: list[Store]) -> None:
    for store in stores:
        for _, linear in store.linears():
            for bits, section in groupby(store.groups(linear), key=lambda group: group[0]):
                assert sum(rows for _, _, rows in section) % (16 if bits == 2 else 32) == 0


def test_padding_columns_hold_the_code_of_zero(stores: list[Store]) -> None:
    padded = 0
    for store in stores:
        for shape, linear in store.linears():
            words = linear["q_weight"][:, shape.out_features :]
            for (bits, first, rows), column in ((group, c) for group in store.groups(linear) for c in words.T):
                number = int.from_bytes(column[first : first + bits * rows // 32].numpy().tobytes(), "little")
                assert {number >> (bits * row) & ((1 << bits) - 1) for row in range(rows)} == {1 << (bits - 1)}
                padded += 1
            if shape.bias:
                assert not linear["bias"][shape.out_features :].any()
    config = stores[0].config
    assert (padded > 0) == (config.vocab_size % 32 > 0)


def test_inverse_permutations_are_permutations(stores: list[Store]) -> None:
    for store in stores:
        for shape, linear in store.linears():
            assert sorted(linear["q_invperm"].tolist()) == list(range(shape.in_features))


def test_layers_with_the_same_input_have_the_same_order(stores: list[Store]) -> None:
    for store in stores:
        for layer in range(store.config.layers):
            for block, names in (("self_attn", "qkv"), ("mlp", ("gate", "up"))):
                orders = [store.tensors[f"model.layers.{layer}.{block}.{name}_proj.q_invperm"] for name in names]
                assert all(torch.equal(orders[0], order) for order in orders)


def test_all_levels_have_the_same_orders(stores: list[Store]) -> None:
    for store in stores[1:]:
        for shape in store.config.linears():
            name = f"{shape.key}.q_invperm"
            assert torch.equal(store.tensors[name], stores[0].tensors[name])


def test_maxima_of_scales_are_finite_and_leave_no_scale_at_zero(stores: list[Store]) -> None:
    for store in stores:
        for _, linear in store.linears():
            maxima = linear["q_scale_max"]
            assert maxima.isfinite().all()
            assert ((maxima.float() / 256).half() > 0).all()


def test_the_head_is_quantized_also_if_it_is_tied(stores: list[Store]) -> None:
    for store in stores:
        assert "lm_head.q_weight" in store.tensors
        assert "lm_head.weight" not in store.tensors
        assert min(bits for bits, _, _ in store.groups(dict(store.linears())[store.config.linears()[-1]])) >= 6


def test_embedding_and_norms_are_plain_half_precision(stores: list[Store]) -> None:
    for store in stores:
        plain = {name for name in store.tensors if name.endswith(".weight")}
        assert plain == {"model.embed_tokens.weight", *store.config.norms()}
        assert all(store.tensors[name].dtype == torch.float16 for name in plain)
        assert all(store.tensors[name].isfinite().all() for name in plain)


def test_settings_and_tokenizer_come_along(stores: list[Store]) -> None:
    for store in stores:
        settings = json.loads((store.folder / "config.json").read_bytes())
        assert settings.pop("quantization_config")["bits"] == store.level
        assert settings == json.loads((store.checkpoint / "config.json").read_bytes())
        for name in TOKENIZER_FILES:
            assert (store.folder / name).read_bytes() == (store.checkpoint / name).read_bytes()


def test_average_widths_are_those_asked_for(stores: list[Store]) -> None:
    for store in stores:
        bits = weights = 0
        for shape, linear in store.linears():
            if shape.layer is not None:
                bits += sum(width * rows for width, _, rows in store.groups(linear)) * shape.out_features
                weights += shape.in_features * shape.out_features
        assert bits / weights == pytest.approx(store.level, abs=0.05)


def test_what_levels_have_in_common_takes_room_once(stores: list[Store]) -> None:
    assert len({(store.folder / "common.safetensors").stat().st_ino for store in stores}) == 1
