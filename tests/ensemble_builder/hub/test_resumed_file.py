"""One large file of the hub."""

import fcntl
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flexquant.engine.errors import FlexQuantError
from flexquant.ensemble_builder.hub.resumed_file import fetch_file
from support.hub import Hub, Repository

NAME = "model.safetensors"
CONTENT = os.urandom(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch(hub: Hub, path: Path, sha256: str = SHA256) -> dict[str, int]:
    """Bytes that were there before, and that arrived."""
    counted = {"kept": 0, "arrived": 0}

    def count(what: str, nbytes: int) -> None:
        counted[what] += nbytes

    hub.repositories["org/model"] = Repository({"main": {NAME: CONTENT}})
    fetch_file(
        f"{hub.url}/org/model/resolve/main/{NAME}",
        {},
        path,
        size=len(CONTENT),
        sha256=sha256,
        kept=lambda nbytes: count("kept", nbytes),
        arrived=lambda nbytes: count("arrived", nbytes),
    )
    return counted


@pytest.mark.parametrize("there", [0, 1, 50_000, len(CONTENT) - 1, len(CONTENT)])
def test_only_what_is_missing_is_fetched(hub: Hub, tmp_path: Path, there: int) -> None:
    path = tmp_path / "blobs" / SHA256
    path.parent.mkdir()
    path.with_name(f"{SHA256}.incomplete").write_bytes(CONTENT[:there])
    assert fetch(hub, path) == {"kept": there, "arrived": len(CONTENT) - there}
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [SHA256]
    assert sum(hub.sent.values()) == len(CONTENT) - there


def test_what_is_there_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / SHA256)
    hub.requests.clear()
    assert fetch(hub, tmp_path / SHA256) == {"kept": len(CONTENT), "arrived": 0}
    assert hub.requests == []
    assert [entry.name for entry in tmp_path.iterdir()] == [SHA256]


def test_a_wrong_beginning_is_noticed_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / f"{SHA256}.incomplete"
    part.write_bytes(b"?" * 1000)
    with pytest.raises(FlexQuantError, match="the hub says") as refused:
        fetch(hub, tmp_path / SHA256)
    assert "Start again" in (refused.value.hint or "")
    assert not (tmp_path / SHA256).exists()
    assert fetch(hub, tmp_path / SHA256) == {"kept": 0, "arrived": len(CONTENT)}


def test_what_another_process_fetched_before_it_ended_is_kept(hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / f"{SHA256}.incomplete"
    with part.open("ab") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = pool.submit(fetch, hub, tmp_path / SHA256)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        other.write(CONTENT[:60_000])
        other.flush()
        fcntl.flock(other, fcntl.LOCK_UN)
        assert waiting.result(timeout=60) == {"kept": 60_000, "arrived": 40_000}
    assert (tmp_path / SHA256).read_bytes() == CONTENT


def test_several_that_want_the_same_file_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        counted = list(pool.map(lambda _: fetch(hub, tmp_path / SHA256), range(4)))
    assert sorted(found["arrived"] for found in counted) == [0, 0, 0, len(CONTENT)]
    assert hub.sent == {NAME: len(CONTENT)}
    assert (tmp_path / SHA256).read_bytes() == CONTENT
