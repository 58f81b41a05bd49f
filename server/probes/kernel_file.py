"""Reading the small text files in which Linux answers: procfs and control groups."""

import errno
from pathlib import Path
from typing import Final

SWITCHED_OFF: Final = errno.EOPNOTSUPP
"""What a pressure file gives on a kernel that could tell but was started with psi=0."""


def read_file(path: Path) -> str:
    """Its text; names of groups and mounts may hold any bytes.

    Raises:
        OSError: It cannot be read.
    """
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def read_if_there(path: Path) -> str | None:
    """Its text; None where the kernel does not have it, or has it switched off.

    Raises:
        OSError: There is one, but it cannot be read.
    """
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == SWITCHED_OFF:
            return None
        raise


def find_counter(text: str, name: str) -> int | None:
    """The number in the line `name number`; None without such a line.

    Raises:
        ValueError: It is no number.
    """
    start = f"{name} "
    for line in text.splitlines():
        if line.startswith(start):
            return int(line.removeprefix(start))
    return None


def counter(text: str, name: str) -> int:
    """The number in the line `name number`.

    Raises:
        ValueError: There is none.
    """
    found = find_counter(text, name)
    if found is None:
        raise ValueError(f"no {name} in {text!r}")
    return found
