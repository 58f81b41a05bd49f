"""Rotary embedding as config.json declares it, in every spelling, and what cannot be used."""

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from flexquant.engine.errors import CheckpointError
from flexquant.engine.model_config import read_model_config
from flexquant.engine.rope_settings import Rope
from support.checkpoints import write_config
from support.family_configs import LLAMA3, LONGROPE, PHI3, without

ROPES: list[tuple[dict[str, object], Rope]] = [
    ({}, Rope(10_000.0)),
    ({"rope_theta": 5e5}, Rope(5e5)),
    ({"rope_theta": 500000, "rope_scaling": None}, Rope(5e5)),
    ({"rope_parameters": {"rope_theta": 5e5}}, Rope(5e5)),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": 1.0}, Rope(5e5)),
    ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}, Rope(5e5, "linear", 2.0)),
    ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, Rope(5e5, "linear", 2.0)),
    ({"rope_parameters": {"rope_theta": 5e5, "type": "linear", "factor": 2.0}}, Rope(5e5, "linear", 2.0)),
    ({"rope_scaling": {**LLAMA3, "factor": 32.0}}, Rope(1e4, "llama3", 32.0, 1.0, 4.0, 512)),
    ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, Rope(5e5, "llama3", 8.0, 1.0, 4.0, 512)),
    (
        {"rope_scaling": without(LLAMA3, "original_max_position_embeddings"), "max_position_embeddings": 99},
        Rope(1e4, "llama3", 8.0, 1.0, 4.0, 99),
    ),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        Rope(1e4, "linear", 2.0),
    ),
]


@pytest.mark.parametrize(("changes", "rope"), ROPES)
def test_rope_in_both_spellings(changes: dict[str, object], rope: Rope, tmp_path: Path) -> None:
    assert read_model_config(write_config(tmp_path, **changes)).rope == rope


@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor"])
def test_a_missing_factor_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"rope_scaling.{name} is missing"):
        read_model_config(write_config(tmp_path, rope_scaling=without(LLAMA3, name)))


def test_factors_in_the_wrong_order(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"high_freq_factor is 1\.0; it must be above"):
        read_model_config(write_config(tmp_path, rope_scaling={**LLAMA3, "high_freq_factor": 1.0}))


@pytest.mark.parametrize("spelling", ["old", "older", "new"])
def test_longrope_takes_its_short_factors_up_to_the_original_context(spelling: str, tmp_path: Path) -> None:
    changes: dict[str, object] = {"original_max_position_embeddings": 4096, "max_position_embeddings": 131072}
    if spelling == "new":
        reference: Any = Phi3Config.from_dict({**PHI3, **changes, "rope_parameters": dict(LONGROPE)})
        reference.save_pretrained(tmp_path)
        scale = ROPE_INIT_FUNCTIONS["longrope"](reference)[1]
    else:
        old: dict[str, object] = without(LONGROPE, "rope_type")
        old["type"] = "longrope" if spelling == "old" else "su"
        write_config(tmp_path, PHI3, **changes, rope_scaling=old)
        scale = math.sqrt(1 + math.log(32) / math.log(4096))
    config = read_model_config(tmp_path)
    short = tuple(LONGROPE["short_factor"])
    assert config.rope == Rope(1e4, "longrope", original_context=4096, factors=short, scale=scale)
    assert config.context == 4096
    assert config.context_limit is not None
    assert "long factors" in config.context_limit


def test_longrope_of_the_original_context_has_no_limit(tmp_path: Path) -> None:
    changes: dict[str, object] = {"original_max_position_embeddings": 4096, "max_position_embeddings": 4096}
    config = read_model_config(write_config(tmp_path, PHI3, **changes, rope_scaling=LONGROPE))
    assert (config.context, config.context_limit, config.rope.scale) == (4096, None, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_factor": [1.0] * 7}, "rope_scaling.short_factor is .*; it must be a list of 8 numbers"),
        ({"short_factor": [1.0] * 7 + [0.0]}, "rope_scaling.short_factor is .*; it must be a list of numbers above 0"),
        ({"short_factor": "1"}, "rope_scaling.short_factor is '1'"),
        ({"short_factor": None}, "rope_scaling.short_factor is missing"),
        ({"original_max_position_embeddings": None}, "original_max_position_embeddings is missing"),
        ({"original_max_position_embeddings": 1}, "original_max_position_embeddings is 1"),
        ({"attention_factor": -1.0}, "rope_scaling.attention_factor is -1.0"),
    ],
)
def test_longrope_that_cannot_be_used(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    scaling = {"original_max_position_embeddings": 512, **LONGROPE, **changes}
    with pytest.raises(CheckpointError, match=message):
        read_model_config(write_config(tmp_path, PHI3, rope_scaling=scaling))


@pytest.mark.parametrize(
    ("share", "turned"), [(None, 16), (1.0, 16), (0.75, 12), (0.5, 8), (0.2, None), (0.1, None), (1.5, None)]
)
@pytest.mark.parametrize("new", [False, True])
def test_phi3_may_turn_a_part_of_its_heads(share: float | None, turned: int | None, new: bool, tmp_path: Path) -> None:
    fields: dict[str, object] = {"partial_rotary_factor": share}
    write_config(tmp_path, PHI3, **({"rope_parameters": fields} if new else fields))
    if turned is None:
        with pytest.raises(CheckpointError, match=r"partial_rotary_factor is .* it must be at most 1 and give an even"):
            read_model_config(tmp_path)
    else:
        assert read_model_config(tmp_path).rotary_dim == turned
