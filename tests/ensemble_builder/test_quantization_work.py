"""Work on disk: kept for the same settings, dropped for others, never half."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from flexquant.engine.errors import FlexQuantError
from flexquant.ensemble_builder.quantization_work import QuantizationWork

SETTINGS = {"levels": [8.0, 3.0]}
LAYER = {"8.0": {"a": torch.ones(2).half()}, "3.0": {"a": torch.zeros(2).half()}}


def test_layers_and_hidden_states_are_found_again(tmp_path: Path) -> None:
    hidden = torch.randn(2, 3, 4)
    work = QuantizationWork(tmp_path / "work", SETTINGS)
    assert work.load_hidden() is None
    work.save_layer(0, LAYER)
    work.save_hidden(1, hidden)
    work.save_layer(1, {level: {"b": tensors["a"]} for level, tensors in LAYER.items()})
    work.save_hidden(2, hidden + 1)
    again = QuantizationWork(tmp_path / "work", SETTINGS)
    found = again.load_hidden()
    assert found is not None
    assert found[0] == 2
    assert torch.equal(found[1], hidden + 1)
    assert sorted(again.results("8.0")) == ["a", "b"]


def test_other_settings_start_anew(tmp_path: Path) -> None:
    work = QuantizationWork(tmp_path / "work", SETTINGS)
    work.save_layer(0, LAYER)
    work.save_hidden(1, torch.zeros(1))
    work.finish()
    other = QuantizationWork(tmp_path / "work", {"levels": [8.0, 4.0]})
    assert other.load_hidden() is None
    assert not other.finished
    assert not (tmp_path / "work" / "layers").exists()


def test_finished_work_takes_no_room_and_is_known(tmp_path: Path) -> None:
    work = QuantizationWork(tmp_path / "work", SETTINGS)
    work.save_layer(0, LAYER)
    work.save_hidden(1, torch.zeros(1))
    assert not work.finished
    work.finish()
    assert QuantizationWork(tmp_path / "work", SETTINGS).finished
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["finished.json", "settings.json"]


def test_a_folder_that_was_half_removed_does_not_look_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = QuantizationWork(tmp_path / "work", SETTINGS)
    work.save_layer(0, LAYER)
    work.save_hidden(1, torch.zeros(1))

    def killed(_folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        QuantizationWork(tmp_path / "work", {"levels": [4.0]})
    monkeypatch.undo()
    assert QuantizationWork(tmp_path / "work", SETTINGS).load_hidden() is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FlexQuantError, match="file/work"):
        QuantizationWork(tmp_path / "file" / "work", SETTINGS)


def test_a_folder_that_cannot_be_emptied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    QuantizationWork(tmp_path / "work", SETTINGS)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(FlexQuantError, match="work: cannot be written: Permission denied"):
        QuantizationWork(tmp_path / "work", {})
