"""Granularity from the config alone, for shapes of well-known models, and the command that prints it."""

import json
from pathlib import Path

import pytest

from flexquant.engine.model_config import ModelConfig
from flexquant.ensemble_builder.cli import main
from flexquant.ensemble_builder.report.config_granularity import (
    any_precision_granularity,
    granularity_of,
    ladder_granularity,
    whole_levels_granularity,
)
from support.tiny_checkpoint import tiny_checkpoint
from support.tiny_model import tiny_config

# Sizes as the models' authors publish them in config.json on huggingface.co: meta-llama/Llama-3.2-1B,
# meta-llama/Llama-2-7b-hf, meta-llama/Llama-3.1-8B.
SHAPES = {
    "1B": tiny_config(
        hidden_size=2048, intermediate_size=8192, layers=16, heads=32, kv_heads=8, head_dim=64, vocab_size=128256
    ),
    "7B": tiny_config(
        hidden_size=4096, intermediate_size=11008, layers=32, heads=32, kv_heads=32, head_dim=128, vocab_size=32000
    ),
    "8B": tiny_config(
        hidden_size=4096, intermediate_size=14336, layers=32, heads=32, kv_heads=8, head_dim=128, vocab_size=128256
    ),
}
LEVELS = [(8.0, 4.0), (8.0, 3.0), (4.0, 2.0), (8.0, 4.0, 2.5)]


@pytest.mark.parametrize(("name", "max_step"), [("1B", 2 << 20), ("7B", 8 << 20), ("8B", 8 << 20)])
@pytest.mark.parametrize("levels", LEVELS)
def test_slices_are_fifteen_times_finer_than_a_ladder_of_whole_models(
    name: str, max_step: int, levels: tuple[float, ...]
) -> None:
    ladder = ladder_granularity(SHAPES[name], levels, 32)
    found = granularity_of(SHAPES[name], levels, 32, max_step)
    assert found.most_bytes <= max_step
    assert ladder.mean_bytes >= 15 * found.mean_bytes
    assert ladder.most_bytes >= 10 * found.most_bytes


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_not_cut_has_one_step_per_projection_and_transition(name: str) -> None:
    config: ModelConfig = SHAPES[name]
    assert granularity_of(config, (8.0, 4.0), 32).steps == len(config.linears())
    three = granularity_of(config, (8.0, 4.0, 2.0), 32)
    assert three.steps == 2 * (len(config.linears()) - 1) + 1  # the head has 6 bits at both lower levels


def test_slices_give_back_what_whole_projections_do_but_for_what_every_slice_needs() -> None:
    whole = granularity_of(SHAPES["8B"], (8.0, 4.0), 32)
    cut = granularity_of(SHAPES["8B"], (8.0, 4.0), 32, 8 << 20)
    assert cut.mean_bytes * cut.steps == pytest.approx(whole.mean_bytes * whole.steps, rel=1e-3)


def config_json(folder: Path) -> Path:
    folder.mkdir()
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64}
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    return path


def test_the_command_reads_a_config_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_json(tmp_path / "model")
    arguments = ["--levels", "8,4", "--max-step", "2M", "--json"]
    told = []
    for model in (path, path.parent):
        assert main(["granularity", str(model), *arguments]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    ladder, whole, cut = told[0].values()
    assert (ladder["steps"], ladder["finer_in_the_mean"]) == (16, 1.0)
    assert whole["steps"] == 113
    assert cut["steps"] > whole["steps"]
    assert cut["finer_at_most"] >= 10


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_json(tmp_path / "model")
    assert main(["granularity", str(path), "--levels", "8,4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["steps of", "whole models, every 0.25 bits", "projections"]


def test_what_is_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text("{}")
    assert main(["granularity", str(tmp_path / "other.json")]) == 2
    assert "is not named config.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", SHAPES)
def test_any_precision_bit_by_bit_is_finer_than_with_the_whole_model(name: str) -> None:
    levels = (8.0, 7.0, 6.0, 5.0, 4.0, 3.0)
    whole = whole_levels_granularity(SHAPES[name], levels)
    modules = any_precision_granularity(SHAPES[name], levels)
    assert whole.steps == 5
    assert modules.steps == 5 * (len(SHAPES[name].linears()) - 1) + 2  # the head has 6 bits and more
    assert modules.steps * modules.mean_bytes == pytest.approx(whole.steps * whole.mean_bytes)
    assert whole.mean_bytes > 15 * modules.mean_bytes


def test_the_command_knows_any_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    assert main(["granularity", str(folder), "--method", "any-precision", "--levels", "5,4,3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["steps"] for row in found.values()] == [2, 28]
    assert main(["granularity", str(folder), "--method", "any-precision", "--levels", "5,3.5"]) == 2
    assert "3.5 is no whole number of bits" in capsys.readouterr().err
