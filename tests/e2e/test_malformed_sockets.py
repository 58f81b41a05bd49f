"""Malformed requests over real connections, framed rightly and wrongly, cut and left: the daemon goes on answering."""

import http.client
import io
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import psutil
import pytest

from support.daemon import RunningDaemon, running_daemon
from support.malformed import Request, malformed
from support.served import read_all

pytestmark = pytest.mark.e2e

SEED = 11
REQUESTS = 400
WAIT_S = 30.0
CLOSE: Final = (b"connection", b"close")
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() send a reset."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("daemon")
    with running_daemon(folder, "--context=256", "--max-body=100k", "--client-timeout=3") as running:
        yield running


def head(request: Request, *more: tuple[bytes, bytes], version: bytes = b"HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    lines = [b"%s %s %s" % (request.method.encode(), request.target, version)]
    lines += [b"%s: %s" % line for line in (*request.headers, *more)]
    return end.join([*lines, b"", b""])


def length(request: Request) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(b"".join(request.body))


def chunked(parts: tuple[bytes, ...], *, lie: int = 0) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part) + lie, part) for part in parts if part)
    return framed + b"0\r\n\r\n"


Way = Callable[[Request], bytes]
TRANSFER: Final = (b"transfer-encoding", b"chunked")
COMPLETE: Final[dict[str, Way]] = {
    "right": lambda request: head(request, CLOSE, length(request)) + b"".join(request.body),
    "chunked": lambda request: head(request, CLOSE, TRANSFER) + chunked(request.body),
    "wrong chunks": lambda request: head(request, CLOSE, TRANSFER) + chunked(request.body, lie=-1),
    "both": lambda request: head(request, CLOSE, length(request), TRANSFER) + chunked(request.body),
    "too short": lambda request: head(request, CLOSE, (b"content-length", b"1")) + b"".join(request.body),
    "negative": lambda request: head(request, CLOSE, (b"content-length", b"-5")) + b"".join(request.body),
    "two lengths": lambda request: head(request, CLOSE, length(request), (b"content-length", b"7")),
    "old": lambda request: head(request, length(request), version=b"HTTP/1.0") + b"".join(request.body),
    "unknown version": lambda request: head(request, CLOSE, version=b"HTTP/3.7"),
    "line feeds": lambda request: head(request, CLOSE, length(request), end=b"\n") + b"".join(request.body),
    "zero bytes": lambda request: head(request, CLOSE, (b"x", b"a\x00b")),
    "folded": lambda request: head(request, CLOSE, (b"x", b"a\r\n b"), (b"y z", b"")),
}
CUT: Final[dict[str, Way]] = {
    "too long": lambda request: head(request, (b"content-length", b"90000")) + b"".join(request.body),
    "no end of chunks": lambda request: head(request, TRANSFER) + chunked(request.body)[:-5],
    "half a head": lambda request: head(request)[: len(request.target) + 20],
    "no framing": lambda request: head(request) + b"".join(request.body),
}


def send(connection: socket.socket, content: bytes, pieces: int) -> None:
    step = max(len(content) // pieces, 1)
    try:
        for start in range(0, len(content), step):
            connection.sendall(content[start : start + step])
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon has heard enough


class _Received:
    """What `http.client` reads from instead of a socket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


def check(received: bytes, method: str) -> int:
    answer = http.client.HTTPResponse(_Received(received), method=method)  # type: ignore[arg-type]
    answer.begin()
    body = answer.read()
    assert answer.status < 500 or answer.status in (501, 503), received[:500]
    if answer.status != 200 and method != "HEAD":
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    return answer.status


def test_malformed_requests_get_the_envelope_or_an_end(daemon: RunningDaemon) -> None:
    address = (str(urlsplit(daemon.url).hostname), urlsplit(daemon.url).port or 0)
    process = psutil.Process(daemon.process.pid)
    daemon.get("/health")
    handles = process.num_fds()
    chance, seen = random.Random(SEED), dict[int, int]()
    for number in range(REQUESTS):
        request = malformed(chance)
        cut = chance.random() < 0.25
        name = chance.choice(list(CUT if cut else COMPLETE))
        try:
            with socket.create_connection(address, timeout=WAIT_S) as connection:
                send(connection, (CUT if cut else COMPLETE)[name](request), chance.choice((1, 1, 2, 30)))
                if not cut:
                    received = read_all(connection)
                    if received:  # a reset after an early answer can take it along
                        status = check(received, request.method)
                        seen[status] = seen.get(status, 0) + 1
                elif chance.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                    read_all(connection)
                else:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except BaseException as error:
            error.add_note(f"request {number}, {name}: {str(request)[:2000]}")
            raise
    assert sum(seen.values()) > REQUESTS / 2
    assert set(seen) >= {200, 400, 403, 404, 405}

    answer = daemon.post("/v1/completions", {"prompt": "a", "max_tokens": 2, "ignore_eos": True})
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert "Traceback" not in daemon.log()
    deadline = time.monotonic() + WAIT_S
    while process.num_fds() > handles:
        assert time.monotonic() < deadline, "a connection is held"
        time.sleep(0.1)
