"""The wider checkpoint that quantizers are compared on."""

from pathlib import Path

import pytest
import torch
import transformers

from bench.quantizers import widen as widening
from bench.quantizers.widen import main, widen
from flexquant.engine.model_config import read_model_config
from support.tiny_checkpoint import TEXT, tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", intermediate_size=64)


def test_split_neurons_do_together_what_one_did(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "NOISE", 0.0)
    llama = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = torch.arange(20)[None]
    before = llama(tokens).logits
    widen(llama, 96, seed=1)
    torch.testing.assert_close(llama(tokens).logits, before, rtol=1e-4, atol=1e-5)
    assert {layer.mlp.up_proj.weight.shape for layer in llama.model.layers} == {(96, llama.config.hidden_size)}


def test_what_is_saved_is_a_model_that_was_trained(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(widening, "K_BLOCK", 32)
    monkeypatch.setattr(widening, "WINDOW", 32)
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 20)
    asked = [str(model), "--text", str(text), "--intermediate", "96", "--steps", "20", "--out", str(tmp_path / "wide")]
    assert main(asked) == 0
    said = capsys.readouterr().out
    first, last = (float(figure) for figure in said.split("training loss from ")[1].split(" nats")[0].split(" to "))
    assert last < first
    assert read_model_config(tmp_path / "wide").intermediate_size == 96


@pytest.mark.parametrize("width", ["64", "500", "100000"])
def test_other_widths_are_refused(model: Path, tmp_path: Path, width: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(model), "--text", "none", "--intermediate", width, "--out", str(tmp_path)])
