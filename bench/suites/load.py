"""From the process's start to the first token that a client sees, model files in the page cache."""

from pathlib import Path
from typing import Final

from bench.row import Row
from bench.server_process import Server, ServerError, server
from bench.session import Session

_REQUEST: Final = {"prompt": "The function returns", "max_tokens": 8, "temperature": 0}
_BLOCK: Final = 1 << 24


def run(session: Session) -> list[Row]:
    """The daemon at 4 bits against llama.cpp's server on the Q4_0 file."""
    position = session.uniform_position(4)
    ours = session.daemon_command(position)
    peer = _peer_command(session)
    ours_seconds: list[float] = []
    peer_seconds: list[float] = []
    for number in range(1 + session.scale.starts):
        _read_through(session.ensemble / "levels" / "4.0")
        with server(ours) as started:
            seconds = started.first_token(_REQUEST)
            _check_position(started, position)
        if number:  # the first round brings programs into the page cache
            ours_seconds.append(seconds)
        if peer is not None:
            _read_through(session.peer_file(4))
            with server(peer) as started:
                seconds = started.first_token(_REQUEST)
            if number:
                peer_seconds.append(seconds)
    name = "load, 4 bits: spawn to first streamed token over HTTP"
    return [session.compare(name, "s", ours_seconds, peer_seconds, 4, less_is_better=True)]


def _peer_command(session: Session) -> list[str] | None:
    if session.peer_missing is not None or session.peer_python is None:
        return None
    threads = str(session.threads)
    return [
        *(session.peer_python, "-m", "llama_cpp.server", "--model", str(session.peer_file(4))),
        *("--n_threads", threads, "--n_threads_batch", threads, "--host", "127.0.0.1"),
    ]


def _check_position(started: Server, position: int) -> None:
    state = started.get("/v1/elastic")
    if state["position"] != position:
        raise ServerError(f"the daemon is at position {state['position']}, not {position}: is memory short?")


def _read_through(path: Path) -> None:
    """Bring a file, or a folder's files, into the page cache."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while stream.read(_BLOCK):
                pass
