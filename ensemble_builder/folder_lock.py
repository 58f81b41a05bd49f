"""One process at a time works in an output folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexquant.engine.errors import UsageError
from flexquant.ensemble_builder.atomic_file import cannot_write


@contextmanager
def alone(out: Path, lock: Path, doing: str) -> Iterator[None]:
    """Hold a folder for this process; the system gives it up with the process, however that ends.

    Args:
        out: The folder that a person named.
        lock: File to lock; its folder is made.
        doing: What another process would be doing there, such as "is building".

    Raises:
        UsageError: Another process holds the folder.
        FlexQuantError: The folder cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{out}: another process {doing} there", hint="Wait, or choose another --out.") from error
        yield
    finally:
        os.close(descriptor)
