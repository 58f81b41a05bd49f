"""Fetches what a running daemon has recorded."""

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flexquant.engine.errors import InputError
from flexquant.server.controller.trace import MARK


def write_dump(lines: Iterable[str], path: Path) -> int:
    """Write the lines of a trace to `path`, all of them or none; returns how many.

    Raises:
        InputError: They are no trace, or the file cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    count = 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for line in lines:
                if not count and not line.startswith(f'{{"{MARK}":'):
                    raise InputError("what the daemon sends is no trace", hint="It may be of another version.")
                file.write(f"{line}\n")
                count += 1
        if not count:
            raise InputError("the daemon sends an empty trace")
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):  # it has its name by now
            Path(name).unlink()
    return count
