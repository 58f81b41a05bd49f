"""SHA-256 of files and folders."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from flexquant.engine.ensemble import file_sha256
from flexquant.engine.errors import InputError
from flexquant.engine.manifest import FileRecord


def file_record(path: Path) -> FileRecord:
    """Return size and hash of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def file_records(folder: Path, paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Return the records of files below `folder`, by relative path, in order of the paths."""
    return {path.relative_to(folder).as_posix(): file_record(path) for path in sorted(paths)}


def checkpoint_sha256(folder: Path) -> str:
    """Return a hash of what a checkpoint's outputs depend on: its JSON files and its weights.

    Raises:
        InputError: The folder or a file cannot be read.
    """
    try:
        paths = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    lines = [f"{name} {record.sha256}\n" for name, record in file_records(folder, paths).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
