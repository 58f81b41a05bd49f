"""Our quantizer beside llama.cpp's: what needs neither of llama.cpp's packages."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from bench.quantizers.__main__ import main, parse_widths
from bench.quantizers.equal_bits import equal_level, level_bits, store_bits
from bench.quantizers.gguf_weights import StoredMatrix, bits_per_weight, types_told
from bench.quantizers.importance import write_importance
from bench.quantizers.llama_file import gguf_name, to_halves, to_neighbours, turned_heads, write_llama_file
from bench.quantizers.llama_quantizer import is_fallback
from bench.quantizers.quality import Bench
from bench.quantizers.report import Measured, Pair, markdown, plain, to_json
from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import UnsupportedModelError, UsageError
from flexquant.engine.model_config import HEAD, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.engine.tokenizer import Tokenizer
from flexquant.engine.weights import DenseWeights
from flexquant.ensemble_builder.evaluation import Reference, Windows, measure
from flexquant.ensemble_builder.evaluation_setup import unquantized
from flexquant.ensemble_builder.layer_inputs import ObservedWeights
from flexquant.ensemble_builder.shared_inputs import input_of
from flexquant.ensemble_builder.stores import open_store
from flexquant.ensemble_builder.window_quality import WindowQuality
from support.dense_checkpoint import dense_checkpoint
from support.quantizing import quantize
from support.tiny_checkpoint import TEXT, tiny_checkpoint

ASSETS = Path(__file__).parents[1] / "assets"


def text_of(checkpoint: Path) -> Windows:
    return Windows.of_text(TEXT * 8, "text", Tokenizer.open(checkpoint), read_model_config(checkpoint))


class OtherLinears(DenseWeights):
    """A checkpoint with the decoder linears of another one."""

    def __init__(self, checkpoint: Path, other: Path) -> None:
        config = read_model_config(checkpoint)
        super().__init__(TensorIndex.open(checkpoint), config)
        self._other = DenseWeights(TensorIndex.open(other), config)

    def weight(self, key: str) -> Tensor:
        return super().weight(key) if key == HEAD else self._other.weight(key)


# --- llama.cpp's names and order of rows


def test_features_that_are_rotated_together_become_neighbours() -> None:
    rows = np.arange(8)  # two heads of four features: 0 and 2 are rotated together, 1 and 3, and so on
    assert to_neighbours(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (2, 4), (8, 32), (3, 10)])
def test_the_order_of_rows_comes_back(heads: int, head_dim: int) -> None:
    rows = np.random.default_rng(0).standard_normal((heads * head_dim, 3))
    assert np.array_equal(to_halves(to_neighbours(rows, heads), heads), rows)
    assert np.array_equal(to_neighbours(to_halves(rows, heads), heads), rows)


def test_only_queries_and_keys_of_a_llama_change_their_order(tmp_path: Path) -> None:
    llama = read_model_config(dense_checkpoint(tmp_path / "llama"))
    qwen = read_model_config(dense_checkpoint(tmp_path / "qwen", architecture="qwen2"))
    turned = {shape.key: turned_heads(llama, shape.key) for shape in llama.linears()}
    assert {key.rsplit(".", 1)[-1]: heads for key, heads in turned.items() if heads} == {"q_proj": 4, "k_proj": 2}
    assert not any(turned_heads(qwen, shape.key) for shape in qwen.linears())


def test_every_decoder_linear_has_a_name_of_its_own(tmp_path: Path) -> None:
    config = read_model_config(dense_checkpoint(tmp_path / "checkpoint"))
    names = [gguf_name(shape.key) for shape in config.linears() if shape.layer is not None]
    assert len(set(names)) == 14
    assert gguf_name("model.layers.11.mlp.down_proj") == "blk.11.ffn_down.weight"


# --- bits


def test_bits_are_those_of_the_types_that_came_out() -> None:
    q4, q6 = StoredMatrix("Q4_K", 256, 65536, 256 * 144), StoredMatrix("Q6_K", 256, 65536, 256 * 210)
    assert bits_per_weight([q4]) == 4.5
    assert bits_per_weight([q4, q6, q4]) == pytest.approx((2 * 4.5 + 6.5625) / 3)


def test_types_of_other_inputs_are_told_apart() -> None:
    matrices = [StoredMatrix("Q4_K", 256, 1, 1)] * 3 + [StoredMatrix("Q5_0", 640, 1, 1)]
    assert types_told("Q4_K_M", matrices) == "3 Q4_K, 1 Q5_0 (fallback)"
    assert types_told("Q8_0", [StoredMatrix("Q8_0", 640, 1, 1)]) == "1 Q8_0"
    assert [is_fallback("Q2_K", inputs) for inputs in (256, 640, 1024)] == [False, True, False]


def test_bits_of_a_level_are_known_before_it_is_made(tmp_path: Path) -> None:
    checkpoint = dense_checkpoint(tmp_path / "checkpoint", architecture="qwen2")
    quantize(checkpoint, tmp_path / "out")
    linears = read_model_config(checkpoint).linears()
    for name, level in (("8.0", 8.0), ("3.5", 3.5)):
        store = open_store(tmp_path / "out" / "levels" / name, name, level)
        assert store_bits(store) == pytest.approx(level_bits(linears, level))


def test_a_level_of_equal_bits_takes_no_more_and_hardly_less() -> None:
    linears = read_model_config(ASSETS / "docs-llama").linears()
    for bits in (2.6, 3.188, 3.9, 4.5, 5.144, 5.9, 6.7):
        found = level_bits(linears, equal_level(linears, bits))
        assert bits - 0.01 < found <= bits
    assert equal_level(linears, 8.5) == 8.0
    assert equal_level(linears, 1.0) == 2.0


# --- quality


def test_windows_together_have_the_quality_of_the_whole_text(tmp_path: Path) -> None:
    checkpoint, other = tiny_checkpoint(tmp_path / "checkpoint"), tiny_checkpoint(tmp_path / "other", seed=1)
    config, windows = read_model_config(checkpoint), text_of(checkpoint)
    found = Bench(checkpoint, windows).with_linears(DenseWeights(TensorIndex.open(other), config))
    mixed = Reference.of(Decoder(config, OtherLinears(checkpoint, other)), windows)
    whole = measure(mixed.decoder, mixed.hidden, windows, Reference.of(unquantized(checkpoint, config), windows))
    assert len(found.kl) == len(windows.tokens) > 2
    assert found.perplexity == pytest.approx(whole.perplexity, rel=1e-5)
    assert found.mean_kl == pytest.approx(whole.kl, rel=1e-5)
    assert found.mean_kl > 0.01


def test_the_same_weights_give_the_unquantized_model(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    bench = Bench(checkpoint, text_of(checkpoint))
    same = bench.with_linears(DenseWeights(TensorIndex.open(checkpoint), read_model_config(checkpoint)))
    assert same == bench.unquantized()
    assert same.kl == (0.0,) * len(same.kl)


def test_the_importance_matrix_is_the_mean_square_of_the_inputs(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    config, index, windows = read_model_config(checkpoint), TensorIndex.open(checkpoint), text_of(checkpoint)
    write_importance(tmp_path / "matrix.npz", index, config, windows)
    observed = ObservedWeights(index, config)
    Reference.of(Decoder(config, observed), windows)
    with np.load(tmp_path / "matrix.npz") as found:
        assert len(found.files) == 7 * config.layers
        for shape in config.linears():
            if shape.layer is not None and input_of(shape.key) == shape.key:
                expected = observed.take_hessian(shape.key).diagonal() / windows.tokens.numel()
                assert np.allclose(found[gguf_name(shape.key)], expected, rtol=1e-4)


# --- report and command


def _measured(name: str, *kl: float) -> Measured:
    return Measured(name, "7 Q4_K", 4.5, WindowQuality((3.0, 3.2), kl, (0.5, 0.5)))


PAIR = Pair(_measured("Q4_K_M", 0.02, 0.04), _measured("with", 0.02, 0.02), _measured("level 4.2", 0.01, 0.02))


def test_a_table_has_a_line_per_model_and_the_ratio_at_the_peer() -> None:
    lines = markdown(WindowQuality((3.0, 3.0), (0.0, 0.0), (0.5, 0.5)), [PAIR]).splitlines()
    assert len(lines) == 6
    assert lines[3] == (
        "| llama.cpp: Q4_K_M | 7 Q4_K | 4.500 | 22.198 | 1.105 (1 to 1.221) | 0.03 (0.02 to 0.04) | 0.5 (0.5 to 0.5) |"
    )
    assert lines[5].endswith("| 0.015 (0.01 to 0.02) |  |")
    assert "0.5 (0.5 to 0.5)" in plain(WindowQuality((3.0, 3.0), (0.0, 0.0), (0.5, 0.5)), [PAIR])


def test_json_has_the_figures_of_every_window() -> None:
    rows = to_json(WindowQuality((3.0, 3.2), (0.0, 0.0), (0.5, 0.5)), [PAIR])
    assert [row["owner"] for row in rows] == ["unquantized", "llama.cpp", "llama.cpp", "ours"]
    assert rows[1]["ours_over_this"] == pytest.approx(0.5)
    assert rows[1]["windows"]["kl"] == (0.02, 0.04)


def test_widths_name_types() -> None:
    assert parse_widths("8,3") == ["Q8_0", "Q3_K_M"]
    with pytest.raises(UsageError, match="--bits 8,7"):
        parse_widths("8,7")


def test_one_text_for_both_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "text.txt").write_text(TEXT * 8)
    text = str(tmp_path / "text.txt")
    assert main([str(checkpoint), "--text", text, "--calibration", text]) == 2
    assert "are the same text" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["mistral", "phi3", "qwen3"])
def test_architectures_without_a_file_for_llama_are_refused_by_name(family: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / family, family=family)
    with pytest.raises(UnsupportedModelError, match=f"architecture {family} cannot"):
        write_llama_file(tmp_path / "file", TensorIndex.open(checkpoint), read_model_config(checkpoint))
