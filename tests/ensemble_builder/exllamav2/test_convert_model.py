"""Levels from exllamav2's converter: what the stores hold, what is said of them, and what is refused."""

import hashlib
import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flexquant.engine.errors import CheckpointError, InputError, UsageError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.bit_allocation import head_bits
from flexquant.ensemble_builder.exllamav2.calibration_rows import CalibrationText, calibration_rows
from flexquant.ensemble_builder.exllamav2.convert_model import quantized_tensors
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.stores import open_store
from support.checkpoints import write_safetensors
from support.converting import LEVELS, commands_of, convert, log_of, stores_of
from support.plain_exl2 import Tensors, converted_layer
from support.tiny_checkpoint import tiny_checkpoint

ROW = 128
"""Tokens; the context of the model."""


@dataclass(frozen=True)
class Made:
    """Levels that were made."""

    out: Path
    text: Text
    shown: str

    @property
    def work(self) -> Path:
        return self.out / ".work" / "exllamav2"


def make(checkpoint: Path, out: Path, **changes: Any) -> Made:
    shown = io.StringIO()
    text = convert(checkpoint, out, progress=Progress(shown, environment={}), **changes)
    return Made(out, text, shown.getvalue())


@pytest.fixture(scope="module")
def by_mix(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(checkpoint, tmp_path_factory.mktemp("mix"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 20 rows and a half; a byte is a token."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("0123456789abcdef" * (ROW // 16 * 20 + 4))
    return path


@pytest.fixture(scope="module")
def by_text(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(checkpoint, tmp_path_factory.mktemp("text"), calibration=CalibrationText(text, 10_000))


def expected(checkpoint: Path, level: float) -> Tensors:
    config = read_model_config(checkpoint)
    found: Tensors = {}
    for shape in config.linears():
        found |= converted_layer(checkpoint, config, shape, head_bits(level) if shape.layer is None else level)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_stores_hold_the_tensors_of_the_converter_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / family, family=family, max_position_embeddings=128, sliding_window=None)
    text = tmp_path / "text.txt"
    text.write_text("Pack my box with five dozen liquor jugs. " * 10)
    made = make(model, tmp_path / "out", calibration=CalibrationText(text, 256))
    for level in LEVELS:
        store = open_store(made.out / "levels" / str(level), str(level), level)
        tensors = expected(model, level)
        assert {*store.index.names()} == {*tensors} | {"model.embed_tokens.weight", *store.config.norms()}
        assert all(store.index.content(name).tobytes() == tensor.tobytes() for name, tensor in tensors.items())


def test_what_all_levels_have_in_common_is_one_file(by_mix: Made) -> None:
    best, smallest = (by_mix.out / "levels" / str(level) / "common.safetensors" for level in LEVELS)
    assert best.samefile(smallest)


def test_a_store_says_how_it_was_made(by_mix: Made) -> None:
    described = json.loads((by_mix.out / "levels" / "2.5" / "config.json").read_text())["quantization_config"]
    assert described == {
        "quant_method": "exl2",
        "version": "0.3.2",
        "bits": 2.5,
        "head_bits": 6,
        "calibration": {"dataset": "exllamav2's own mix", "tokens": 115 * ROW},
    }


def test_one_measurement_serves_all_levels(by_mix: Made) -> None:
    measuring, *converting = commands_of(by_mix.out)
    assert f"-om {by_mix.work}/measure/exported.json" in measuring
    assert "-cf" not in measuring
    assert len(converting) == len(LEVELS)
    assert all(f"-m {by_mix.work}/measurement.json" in command for command in converting)
    assert ["-b 4.0 -hb 6" in converting[0], "-b 2.5 -hb 6" in converting[1]] == [True, True]
    assert "error" not in log_of(by_mix.out).lower()


def test_only_small_files_stay_behind(by_mix: Made) -> None:
    files = [path for path in by_mix.work.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".safetensors"]
    assert not list(by_mix.work.glob("level-*"))


def test_the_stages_are_shown(by_mix: Made) -> None:
    shown = [line.rpartition(" in ")[0] for line in by_mix.shown.splitlines()]
    assert shown == ["measuring by exllamav2: 7/7", "converting to 4.0 bits: 7/7", "converting to 2.5 bits: 7/7"]


def test_the_mix_is_known_by_the_tokens_of_the_first_level_and_stays_the_same(checkpoint: Path, by_mix: Made) -> None:
    assert (by_mix.text.name, by_mix.text.tokens) == ("exllamav2's own mix", 115 * ROW)
    again = make(checkpoint, by_mix.out)
    assert (again.text, again.shown) == (by_mix.text, "")
    assert len(commands_of(by_mix.out)) == 3


def test_other_settings_begin_anew(checkpoint: Path, tmp_path: Path) -> None:
    make(checkpoint, tmp_path)
    made = make(checkpoint, tmp_path, levels=(5.0, 2.5))
    assert len(commands_of(tmp_path)) == 3, "the log is new, too"
    assert "levels/5.0/quantized.safetensors" in stores_of(made.out)


def test_a_text_is_known_by_its_own_hash(by_text: Made, text: Path) -> None:
    sha256 = hashlib.sha256(text.read_bytes()).hexdigest()
    assert by_text.text == Text(name="prose.txt", sha256=sha256, tokens=19 * ROW)


def test_the_converter_takes_rows_of_the_text(by_text: Made, text: Path) -> None:
    measuring, *converting = commands_of(by_text.out)
    assert f"-c {by_text.work}/text.parquet -mr 16 -ml {ROW}" in measuring
    assert all(f"-c {by_text.work}/text.parquet -r 19 -l {ROW}" in command for command in converting)
    assert "First 50 tokens of dataset: '0123456789abcdef" in log_of(by_text.out)


def test_the_text_is_one_row_of_a_parquet_file(by_text: Made, text: Path) -> None:
    fastparquet: Any = importlib.import_module("fastparquet")
    with (by_text.work / "text.parquet").open("rb") as file:
        frame = fastparquet.ParquetFile(file).to_pandas()
    assert [list(frame.columns), frame["text"].tolist()] == [["text"], [text.read_text()]]


@pytest.mark.parametrize(
    ("tokens", "asked", "rows"),
    [(ROW, 10_000, 1), (2 * ROW, 10_000, 1), (3 * ROW, 10_000, 2), (9 * ROW, 4 * ROW + 1, 4), (9 * ROW, 1, 1)],
)
def test_rows_of_a_text(checkpoint: Path, tmp_path: Path, tokens: int, asked: int, rows: int) -> None:
    """One of several is spare; no more than asked for are taken, but one."""
    path = tmp_path / "text.txt"
    path.write_text("x" * tokens)
    found = calibration_rows(CalibrationText(path, asked), checkpoint, read_model_config(checkpoint))
    assert (found.length, found.count) == (ROW, rows)
    assert found.text is not None
    assert found.text.tokens == rows * ROW
    assert found.measuring(path)["measurement_rows"] == min(16, rows)


def test_a_text_that_is_too_short(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * (ROW - 1))
    with pytest.raises(InputError, match=r"short\.txt: 127 tokens do not fill one row of 128") as caught:
        convert(checkpoint, tmp_path / "out", calibration=CalibrationText(path, 512))
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_context_that_the_mix_does_not_fit(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "tiny", max_position_embeddings=96)
    with pytest.raises(UsageError, match=r"need a context of 128 tokens; .*tiny has 96") as caught:
        convert(model, tmp_path / "out")
    assert caught.value.hint == "Give a text with --calibration."
    assert not (tmp_path / "out").exists()


def test_rows_of_the_mix_are_whole_pieces(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "tiny", max_position_embeddings=300)
    made = make(model, tmp_path / "out")
    assert "-ml 256" in commands_of(made.out)[0]
    assert made.text.tokens == 115 * 256


@pytest.mark.parametrize("level", [2.0, 2.1, 8.5])
def test_levels_that_the_converter_cannot_make(checkpoint: Path, tmp_path: Path, level: float) -> None:
    with pytest.raises(UsageError, match=rf"{level:g} bits: exllamav2's converter makes levels of 2\.1125 to 8 bits"):
        convert(checkpoint, tmp_path / "out", levels=(4.0, level))
    assert not (tmp_path / "out").exists()


def test_a_level_below_what_the_measurement_offers(checkpoint: Path, tmp_path: Path) -> None:
    says = r"2\.2 bits: the least that exllamav2's converter can make of this model is 2\.250 bits per weight"
    with pytest.raises(UsageError, match=says) as caught:
        convert(checkpoint, tmp_path, levels=(4.0, 2.2))
    assert "levels of 2.25 bits or more" in str(caught.value.hint)
    assert len(commands_of(tmp_path)) == 1, "no level was begun"
    assert not (tmp_path / "levels").exists()


def test_parquet_cannot_be_written_here(
    checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name == "fastparquet":
            raise ModuleNotFoundError("No module named 'fastparquet'")
        return find(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UsageError, match="No module named 'fastparquet'") as caught:
        convert(checkpoint, tmp_path, calibration=CalibrationText(text, 512))
    assert "flexquant[cuda]" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("suffix", "says"),
    [("q_weight", r"tensor model\.layers\.1\.mlp\.down_proj\.q_weight is missing"), ("q_scale", "q_scale: shape is")],
)
def test_a_layer_that_the_converter_left_out_or_damaged(
    checkpoint: Path, tmp_path: Path, suffix: str, says: str
) -> None:
    tensors = expected(checkpoint, 4.0)
    name = f"model.layers.1.mlp.down_proj.{suffix}"
    tensors[name] = tensors[name][:1]
    if suffix == "q_weight":
        del tensors[name]
    write_safetensors(tmp_path / "output.safetensors", tensors)
    with pytest.raises(CheckpointError, match=f"left what cannot be used: .*{says}") as caught:
        quantized_tensors(tmp_path, read_model_config(checkpoint))
    assert caught.value.hint == f"Remove {tmp_path}; the same command converts this level again."


def test_names_of_the_index_are_those_of_linear_layers_alone(checkpoint: Path, tmp_path: Path) -> None:
    tensors = expected(checkpoint, 4.0)
    dense = TensorIndex.open(checkpoint).floats("model.norm.weight")
    write_safetensors(tmp_path / "output.safetensors", tensors | {"model.norm.weight": dense})
    assert quantized_tensors(tmp_path, read_model_config(checkpoint)).keys() == tensors.keys()
