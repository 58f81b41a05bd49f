"""What an output folder may hold when a build starts."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from flexquant.engine.errors import FlexQuantError, InputError, UsageError
from flexquant.ensemble_builder.workplace import workplace

SETTINGS = {"levels": (8.0, 3.0), "seed": 0}


def finish(out: Path) -> None:
    (out / "report.json").write_text(json.dumps({"settings": SETTINGS}))
    (out / "ensemble.json").write_text("{}")


def enter(out: Path, settings: Mapping[str, object]) -> None:
    with workplace(out, settings):
        pass


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    with workplace(tmp_path / "a" / "b", SETTINGS) as place:
        assert not place.finished
        assert place.work.is_dir()


def test_an_unfinished_build_is_continued(tmp_path: Path) -> None:
    with workplace(tmp_path, SETTINGS) as place:
        (place.work / "kept").write_text("x")
    with workplace(tmp_path, SETTINGS) as place:
        assert (place.work / "kept").read_text() == "x"


def test_other_settings_do_not_continue_it(tmp_path: Path) -> None:
    enter(tmp_path, SETTINGS)
    with pytest.raises(InputError, match="an unfinished build with seed 0; asked for is 7"):
        enter(tmp_path, {**SETTINGS, "seed": 7})


def test_a_finished_build_is_left_alone(tmp_path: Path) -> None:
    with workplace(tmp_path, SETTINGS) as place:
        finish(tmp_path)
        place.clear()
    with workplace(tmp_path, SETTINGS) as place:
        assert place.finished
    assert not (tmp_path / ".work").exists()


def test_a_build_that_was_killed_when_it_was_finished_leaves_nothing(tmp_path: Path) -> None:
    with workplace(tmp_path, SETTINGS):
        finish(tmp_path)
    with workplace(tmp_path, SETTINGS) as place:
        assert place.finished
    assert not (tmp_path / ".work").exists()


def test_a_finished_build_is_not_overwritten_by_another(tmp_path: Path) -> None:
    finish(tmp_path)
    with pytest.raises(InputError, match="holds an ensemble with levels"):
        enter(tmp_path, {**SETTINGS, "levels": (8.0, 4.0)})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"no ensemble \(thesis\.tex\)"):
        enter(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_ensemble_from_elsewhere_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ensemble.json").write_text("{}")
    with pytest.raises(InputError, match=r"report\.json: does not say what was built"):
        enter(tmp_path, SETTINGS)


def test_two_builds_do_not_share_a_folder(tmp_path: Path) -> None:
    with workplace(tmp_path, SETTINGS), pytest.raises(UsageError, match="another process is building there"):
        enter(tmp_path, SETTINGS)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FlexQuantError, match="cannot be written"):
        enter(tmp_path / "file" / "out", SETTINGS)
