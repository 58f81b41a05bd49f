"""What can be read from a measurement of exllamav2's converter."""

import json
from pathlib import Path
from typing import Any

import pytest

from flexquant.engine.errors import CheckpointError, InputError, UsageError
from flexquant.engine.model_config import ModelConfig, read_model_config
from flexquant.ensemble_builder.exllamav2.measurement import check_offered, smallest_bits


@pytest.fixture
def config(checkpoint: Path) -> ModelConfig:
    return read_model_config(checkpoint)


def measurement(config: ModelConfig, bits: float) -> dict[str, Any]:
    """Blocks in three sizes, the smallest of `bits`; what is no block is null."""
    found: dict[str, Any] = {"model.norm.norm": None, "lm_head.linear": None}
    for shape in config.linears():
        if shape.layer is not None:
            block = found.setdefault(shape.key.rpartition(".")[0], [{"accuracy": 0.9, "total_bits": 0}] * 3)
            weights = shape.in_features * shape.out_features
            found[shape.key.rpartition(".")[0]] = [
                {"accuracy": 0.9, "total_bits": option["total_bits"] + int(factor * bits * weights)}
                for factor, option in zip((2, 1, 3), block, strict=True)
            ]
    return {"measurement": found, "last_module_idx": 6}


def test_the_smallest_of_every_block(config: ModelConfig, tmp_path: Path) -> None:
    path = tmp_path / "measurement.json"
    path.write_text(json.dumps(measurement(config, 2.125)))
    assert smallest_bits(path, config) == 2.125


@pytest.mark.parametrize("change", [None, [], [{"accuracy": 1}], "much"])
def test_a_block_is_missing(config: ModelConfig, tmp_path: Path, change: object) -> None:
    found = measurement(config, 3)
    found["measurement"]["model.layers.1.mlp"] = change
    path = tmp_path / "measurement.json"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"measurement\.json: holds no measurement of model\.layers\.1\.mlp") as caught:
        smallest_bits(path, config)
    assert caught.value.hint == "Remove the file; the same command measures again."


def test_no_measurement_at_all(config: ModelConfig, tmp_path: Path) -> None:
    path = tmp_path / "measurement.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no measurement of"):
        smallest_bits(path, config)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        smallest_bits(path, config)


def test_levels_are_offered_or_not() -> None:
    check_offered((4.0, 2.25), 2.25)
    with pytest.raises(UsageError, match=r"2\.2 bits: the least .* is 2\.241 bits") as caught:
        check_offered((4.0, 2.2), 2.2411)
    assert caught.value.exit_code == 2
    assert "2.25 bits or more" in str(caught.value.hint)
