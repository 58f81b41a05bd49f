"""One large file, fetched so that what arrived before the process was killed is not fetched again.

The hub's own library goes on after a broken connection but begins anew in a new process.
"""

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from huggingface_hub.file_download import http_get

from flexquant.engine.ensemble import file_sha256
from flexquant.engine.errors import FlexQuantError
from flexquant.ensemble_builder.atomic_file import sync_folder

Arrived = Callable[[int], None]
"""Is told how many more bytes have arrived."""


def fetch_file(
    url: str, headers: Mapping[str, str], path: Path, *, size: int, sha256: str, kept: Arrived, arrived: Arrived
) -> None:
    """Fetch a file unless it is there; `path` appears once all of it is there and is what it should be.

    Args:
        url: Where from.
        headers: Of the request.
        path: Where to.
        size: Of the file, in bytes.
        sha256: Of the file.
        kept: Is told how many bytes an earlier process has fetched.
        arrived: Is told how many bytes this one has fetched.

    Raises:
        FlexQuantError: What arrived is not that file.
        OSError: It cannot be written, or has another size.
        HTTPError: The server does not give it (httpx2's, which is what the hub's library raises).
    """
    part = path.with_name(f"{path.name}.incomplete")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another process that fetches the same file is waited for
        if path.exists():
            part.unlink(missing_ok=True)
            kept(size)
            return
        start = file.seek(0, os.SEEK_END)  # now: whoever had the lock may have fetched more of it
        if start > size:  # never a beginning of this file
            start = file.truncate(0)
        kept(start)
        _receive(url, headers, file, start, size, arrived)
        file.flush()
        os.fsync(file.fileno())
        found = file_sha256(part)
        if found != sha256:
            file.truncate(0)
            raise FlexQuantError(
                f"{url}: what arrived has the sha256 {found}; the hub says {sha256}",
                hint="Start again to fetch this file anew.",
            )
        part.rename(path)
    sync_folder(path.parent)


def _receive(url: str, headers: Mapping[str, str], file: BinaryIO, start: int, size: int, arrived: Arrived) -> None:
    class Meter:
        """What the library takes for a tqdm bar."""

        def __init__(self, **_ignored: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_ignored: object) -> None: ...

        def update(self, count: int) -> None:
            arrived(count)

    http_get(url, file, resume_size=start, headers=dict(headers), expected_size=size, tqdm_class=cast(Any, Meter))
