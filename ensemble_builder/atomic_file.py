"""Files that are either complete or absent: written under a temporary name, fsynced and renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flexquant.engine.errors import FlexQuantError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once the block has ended, and is removed if the block fails.

    The folder of `path` is made if it is missing. When the block has ended, content and name are on disk.

    Raises:
        FlexQuantError: The file cannot be written: no room, no permission, no folder.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file.

    Raises:
        FlexQuantError: As for `replacing`.
    """
    with replacing(path) as file:
        file.write(content)


def cannot_write(path: Path, error: OSError) -> FlexQuantError:
    """Return the error for a file or folder that cannot be written."""
    reason = error.strerror or str(error)
    return FlexQuantError(
        f"{path}: cannot be written: {reason}",
        hint="Make room or choose another folder; running the same command again continues the work.",
    )


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
