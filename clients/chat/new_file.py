"""Writes a file that is not there yet, all of it or nothing."""

import errno
import os
import tempfile
from pathlib import Path


def write_new(path: Path, text: str) -> None:
    """Write `text` to a file that only its owner can read.

    Raises:
        FileExistsError: There is something of that name.
        OSError: It cannot be written.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "there is something of that name", str(path))
    descriptor, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink()
        raise
