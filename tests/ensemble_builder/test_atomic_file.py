"""Files are complete or absent, and a failure names the file."""

import errno
import os
from pathlib import Path

import pytest

from flexquant.engine.errors import FlexQuantError
from flexquant.ensemble_builder.atomic_file import replacing, write_atomically


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with replacing(path) as file:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail() -> None:
        with replacing(tmp_path / "file") as file:
            file.write(b"half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FlexQuantError, match="file: cannot be written: No space left on device") as caught:
        write_atomically(tmp_path / "file", b"content")
    assert caught.value.hint is not None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "no folder").write_bytes(b"")
    with pytest.raises(FlexQuantError, match="no folder/file: cannot be written"):
        write_atomically(tmp_path / "no folder" / "file", b"content")


def test_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((os.path.isdir(f"/dev/fd/{handle}"), path.exists())))
    write_atomically(path, b"content")
    assert seen == [(False, False), (True, True)]
