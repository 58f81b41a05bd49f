"""Our quantizer beside llama.cpp's: what needs its packages. `make bench ARGS=--help` installs them."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.quantizers.__main__ import main
from bench.quantizers.gguf_weights import GgufFile, GgufWeights, bits_per_weight, types_told
from bench.quantizers.llama_file import write_llama_file
from bench.quantizers.llama_quantizer import quantize
from bench.quantizers.quality import Bench
from flexquant.engine.errors import CheckpointError, FlexQuantError
from flexquant.engine.manifest import Text
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.evaluation import Windows, run_layer
from flexquant.ensemble_builder.evaluation_setup import unquantized
from support.dense_checkpoint import dense_checkpoint
from support.tiny_checkpoint import TEXT, tiny_checkpoint

pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
ASSETS = Path(__file__).parents[1] / "assets"

LLAMA_LOGITS = """
import json, sys
import numpy as np
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=64, n_threads=1, logits_all=True, verbose=False)
tokens = json.loads(sys.argv[2])
model.eval(tokens)
np.save(sys.argv[3], np.array(model.scores[: len(tokens)]))
"""


def written(folder: Path, checkpoint: Path) -> Path:
    path = folder / "source.gguf"
    write_llama_file(path, TensorIndex.open(checkpoint), read_model_config(checkpoint))
    return path


def windows_of(checkpoint: Path, count: int) -> Windows:
    vocabulary = read_model_config(checkpoint).vocab_size
    tokens = torch.randint(0, vocabulary, (count, 64), generator=torch.Generator().manual_seed(0))
    return Windows(tokens, Text(name="random", sha256="0" * 64, tokens=tokens.numel()))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_an_unquantized_file_gives_the_unquantized_model(tmp_path: Path, architecture: str, dtype: str) -> None:
    checkpoint = dense_checkpoint(tmp_path / "checkpoint", architecture=architecture, dtype=dtype)
    config, index = read_model_config(checkpoint), TensorIndex.open(checkpoint)
    file = GgufFile(written(tmp_path, checkpoint), config)
    bench = Bench(checkpoint, windows_of(checkpoint, 3))
    found = bench.with_linears(GgufWeights(file, index, config))
    assert {matrix.kind for matrix in file.matrices} == {"F16" if dtype == "float16" else "F32"}
    assert bits_per_weight(file.matrices) == (16 if dtype == "float16" else 32)
    assert found == bench.unquantized()
    assert max(found.kl) == 0


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, dense_checkpoint(tmp_path / "checkpoint"))
    other = read_model_config(dense_checkpoint(tmp_path / "other", intermediate=128))
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_gate\.weight is missing or has another shape"):
        GgufFile(path, other)


@needs_llama
def test_llama_cpp_computes_the_same_from_the_file(tmp_path: Path) -> None:
    checkpoint = ASSETS / "docs-llama"
    tokens = [0, *np.random.default_rng(0).integers(2, 4096, 40).tolist()]
    found = tmp_path / "logits.npy"
    # In a process of its own: two libraries' thread pools are no good company.
    command = [sys.executable, "-c", LLAMA_LOGITS, str(written(tmp_path, checkpoint)), json.dumps(tokens), str(found)]
    subprocess.run(command, check=True, capture_output=True)
    decoder = unquantized(checkpoint, read_model_config(checkpoint))
    hidden = decoder.weights.embed(torch.tensor(tokens))[None]
    for layer in range(decoder.config.layers):
        hidden = run_layer(decoder, layer, hidden)
    ours, theirs = decoder.logits(hidden[0]).numpy(), np.load(found)
    assert np.linalg.norm(ours - theirs) < 2e-3 * np.linalg.norm(ours)  # it keeps keys and values in 16 bits


@needs_llama
@pytest.mark.parametrize(
    ("kind", "intermediate", "types"),
    [
        ("Q8_0", 320, {"Q8_0"}),
        ("Q2_K", 512, {"Q2_K", "Q3_K"}),
        ("Q2_K", 320, {"Q2_K", "Q3_K", "Q4_0 (fallback)"}),
    ],
)
def test_what_llama_cpp_stores_is_told(tmp_path: Path, kind: str, intermediate: int, types: set[str]) -> None:
    checkpoint = dense_checkpoint(tmp_path / "checkpoint", hidden=256, intermediate=intermediate)
    config, index = read_model_config(checkpoint), TensorIndex.open(checkpoint)
    quantize(sys.executable, written(tmp_path, checkpoint), tmp_path / "target.gguf", kind, None)
    file = GgufFile(tmp_path / "target.gguf", config)
    told = types_told(kind, file.matrices)
    assert {part.split(" ", 1)[1] for part in told.split(", ")} == types
    weights = GgufWeights(file, index, config)
    for shape, stored in zip(config.linears(), file.matrices, strict=False):
        exact = index.content(f"{shape.key}.weight").view(np.float16).astype(np.float32)
        error = weights.weight(shape.key).numpy().ravel() - exact
        bits = 8 * stored.nbytes / stored.weights
        assert np.linalg.norm(error) < 2 ** (1.2 - bits) * np.linalg.norm(exact)


@needs_llama
def test_a_type_that_is_not_there_is_an_error_for_people(tmp_path: Path) -> None:
    source = written(tmp_path, dense_checkpoint(tmp_path / "checkpoint"))
    with pytest.raises(FlexQuantError, match=r"llama\.cpp could not quantize to Q9_K"):
        quantize(sys.executable, source, tmp_path / "target.gguf", "Q9_K", None)


@needs_llama
def test_the_command_compares_and_writes_its_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "text.txt").write_text(TEXT * 8)
    (tmp_path / "calibration.txt").write_text(TEXT[::-1] * 8)
    texts = ["--text", str(tmp_path / "text.txt"), "--calibration", str(tmp_path / "calibration.txt")]
    results = tmp_path / "RESULTS.md"
    assert main([str(checkpoint), *texts, "--windows", "3", "--bits", "4", "--json", "--markdown", str(results)]) == 0
    found = json.loads(capsys.readouterr().out)
    unquantized_row, theirs, matrix, ours = found["rows"]
    assert unquantized_row["kl"] == 0
    assert theirs["stored"] == matrix["stored"] == "12 Q5_0 (fallback), 2 Q8_0 (fallback)"
    assert theirs["bits"] - 0.1 < ours["bits"] <= theirs["bits"]
    assert theirs["kl"] != matrix["kl"]
    assert all(0 < row["kl"] < 0.1 and len(row["windows"]["kl"]) == 3 for row in (theirs, matrix, ours))
    assert found["conditions"]["text"] == "text.txt, 3 windows of 128 tokens"
    assert "| ours: level " in results.read_text()
