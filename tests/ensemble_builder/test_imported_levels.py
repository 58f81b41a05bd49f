"""Ensembles from EXL2 checkpoints that exist already."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import CheckpointError, FlexQuantError, UsageError
from flexquant.ensemble_builder.imported_levels import build_from_levels
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress
from support.ensembles import Shape, random_ensemble


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three EXL2 checkpoints of one model; each level has permutations of its own."""
    levels = random_ensemble(tmp_path_factory.mktemp("made"), Shape(layers=1), bits=(8, 4, 2)) / "levels"
    return {folder.name: folder for folder in levels.iterdir()}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "search.txt"
    path.write_text("Sphinx of black quartz, judge my vow. " * 15)
    return path


def options(text: Path, evaluations: int = 0) -> SearchOptions:
    return SearchOptions(text=text, tokens=512, seed=0, evaluations=evaluations, minutes=None)


def quiet() -> Progress:
    return Progress(io.StringIO())


def test_two_checkpoints_become_an_ensemble(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_from_levels([checkpoints["8.0"], checkpoints["2.0"]], out, None, options(text), quiet())
    ensemble = Ensemble.open(out, verify=True)
    sequence = ensemble.sequence()
    assert ensemble.manifest.quantization is None
    assert ensemble.manifest.evaluation.reference == "position 0"
    assert sequence.quality[0].kl == 0.0
    assert ensemble.manifest.evaluation.reference_perplexity == sequence.quality[0].perplexity
    assert len(sequence.transitions) == len(ensemble.manifest.modules) == 8
    assert sorted(sequence.footprint_bytes, reverse=True) == sequence.footprint_bytes
    assert not (out / ".work").exists()


def test_checkpoints_may_come_in_any_order_and_be_three(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build_from_levels([checkpoints[level] for level in ("4.0", "2.0", "8.0")], out, None, options(text), quiet())
    ensemble = Ensemble.open(out, verify=True)
    assert len(ensemble.sequence().transitions) == 2 * 8
    assert all(len(module.sensitivity or ()) == 2 for module in ensemble.manifest.modules)
    bits = [level.bits for level in ensemble.manifest.levels]
    assert bits == sorted(bits, reverse=True)


def test_files_are_hard_links_and_nothing_unsafe_comes_along(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(checkpoints["8.0"], tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "model.safetensors.index.json").write_text("{}")
    out = tmp_path / "out"
    build_from_levels([source, checkpoints["2.0"]], out, None, options(text), quiet())
    store = Ensemble.open(out).common.folder
    assert not {"pytorch_model.bin", "model.safetensors.index.json"} & {path.name for path in store.iterdir()}
    assert (store / "quantized.safetensors").samefile(source / "quantized.safetensors")


def test_copies_where_links_fail(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    out = tmp_path / "out"
    build_from_levels([checkpoints["8.0"], checkpoints["2.0"]], out, None, options(text), quiet())
    store = Ensemble.open(out, verify=True).common.folder
    assert not (store / "config.json").samefile(checkpoints["8.0"] / "config.json")


def test_bits_come_from_the_config_where_it_has_them(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkpoints["4.0"], tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "exl2", "bits": 4.25}
    (source / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    build_from_levels([checkpoints["8.0"], source], out, None, options(text), quiet())
    measured, asked = Ensemble.open(out).manifest.levels
    assert 8.0 < measured.bits < 9.0
    assert (asked.bits, asked.name, asked.store) == (4.25, "4.25", "levels/4.25")


def _vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")


def _context(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))


def _rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))


def _norms(folder: Path) -> None:
    path = folder / "common.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_vocabulary, r"tokenizer\.json differs"),
        (_context, "context is 512 in the first and 4096 in the second"),
        (_rope, "rope is"),
        (_norms, r"tensor model\.norm\.weight differs"),
    ],
)
def test_checkpoints_of_different_models(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, change: Callable[[Path], None], says: str
) -> None:
    other = shutil.copytree(checkpoints["2.0"], tmp_path / "other")
    change(other)
    with pytest.raises(CheckpointError, match=f"of different models: {says}") as caught:
        build_from_levels([checkpoints["8.0"], other], tmp_path / "out", None, options(text), quiet())
    assert caught.value.hint is not None
    assert not (tmp_path / "out").exists()


def test_the_same_width_twice(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="are both of"):
        build_from_levels([checkpoints["8.0"]] * 2, tmp_path / "out", None, options(text), quiet())


def test_one_checkpoint_is_not_enough(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs two"):
        build_from_levels([checkpoints["8.0"]], tmp_path / "out", None, options(text), quiet())


def test_an_unquantized_checkpoint_is_refused(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    dense = Path(__file__).parent.parent / "assets" / "docs-llama"
    with pytest.raises(CheckpointError, match=r"is not in EXL2 \(no tensor"):
        build_from_levels([checkpoints["8.0"], dense], tmp_path / "out", None, options(text), quiet())


def test_a_missing_checkpoint(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    with pytest.raises(FlexQuantError, match="nowhere"):
        build_from_levels([checkpoints["8.0"], tmp_path / "nowhere"], tmp_path / "out", None, options(text), quiet())
