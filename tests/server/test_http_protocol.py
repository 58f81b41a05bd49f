"""Connections of clients that are slow, many, or do not speak HTTP: each is told, and none is held for ever."""

import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from flexquant.server.security import MAX_HEAD_BYTES
from support.served import Served, read_all, served

LIMIT = 0.4
"""Seconds of --client-timeout."""
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GOOD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    with served("--client-timeout", str(LIMIT), "--max-connections", "5") as running:
        yield running


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING):
        yield
    assert not [record for record in caplog.records if record.exc_info]
    assert "Traceback" not in caplog.text


def talk(server: Served, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """What the daemon answers to `sent` before it closes: status, headers, body."""
    with server.connect() as connection:
        connection.sendall(sent)
        return parsed(read_all(connection))


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


def ask_for_health(connection: socket.socket) -> None:
    """One good request on a connection that stays open."""
    connection.sendall(GOOD)
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        part = connection.recv(65536)
        assert part, received
        received += part


def error_of(body: bytes) -> dict[str, Any]:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        HEAD + b"transfer-encoding: chunked\r\n\r\nnot a chunk\r\n",
        b"POST / HTTP/1.1\r\nhost: evil.example\r\ntransfer-encoding: chunked\r\n\r\nnot a chunk\r\n",
    ],
)
def test_what_is_not_http_gets_the_envelope(slow: Served, sent: bytes) -> None:
    status, headers, body = talk(slow, sent)
    assert (status, headers["connection"]) == (400, "close")
    assert error_of(body)["code"] == "invalid_http"


def test_unknown_transfer_coding_is_a_501(slow: Served) -> None:
    status, _, body = talk(slow, HEAD + b"transfer-encoding: gzip\r\n\r\n")
    assert status == 501
    assert error_of(body)["type"] == "server_error"


def test_http_2_is_refused_and_closed(slow: Served) -> None:
    status, _, body = talk(slow, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (status, body.count(b'{"error"')) == (403, 2)


@pytest.mark.parametrize("length", [MAX_HEAD_BYTES + 1, 2**20])
def test_large_head_is_a_431(slow: Served, length: int) -> None:
    with slow.connect() as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before the end
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * length)
        answer = read_all(connection)
    if sys.platform != "linux" and not answer:
        pytest.skip("here a reset takes along what was not read")
    status, _, body = parsed(answer)
    assert status == 431
    assert error_of(body)["code"] == "head_too_large"


def test_silent_connection_is_closed(slow: Served) -> None:
    began = time.monotonic()
    with slow.connect() as connection:
        assert read_all(connection) == b""
    assert LIMIT <= time.monotonic() - began < LIMIT + 5


@pytest.mark.parametrize("kept_alive", [False, True])
def test_head_that_trickles_in_is_a_408(slow: Served, kept_alive: bool) -> None:
    with slow.connect() as connection:
        if kept_alive:
            ask_for_health(connection)
        answer = trickle(connection, b"GET /health HTTP/1.1\r\nx: " + b"y" * 1000)
    status, _, body = parsed(answer)
    assert status == 408
    assert error_of(body)["code"] == "request_timeout"


@pytest.mark.parametrize("framing", [b"content-length: 1000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n3e8\r\n"])
def test_body_that_trickles_in_is_a_408(slow: Served, framing: bytes) -> None:
    with slow.connect() as connection:
        connection.sendall(HEAD + framing)
        status, _, body = parsed(trickle(connection, b'{"prompt": "' + b"y" * 500))
    assert status == 408
    assert "body" in error_of(body)["message"]


def test_body_that_nobody_waits_for_does_not_hold_the_connection(slow: Served) -> None:
    with slow.connect() as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n")
        answer = trickle(connection, b"y" * 2000)
    assert parsed(answer)[0] == 404


def test_pipelined_request_that_never_ends_does_not_hold_the_connection(slow: Served) -> None:
    with slow.connect() as connection:
        connection.sendall(GOOD + HEAD + b"content-length: 1000\r\n\r\n{")
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in received


def trickle(connection: socket.socket, content: bytes) -> bytes:
    """Send byte by byte until the other side has had enough, and read what it said."""
    connection.settimeout(0.05)
    received, deadline = b"", time.monotonic() + 20
    for byte in content:
        assert time.monotonic() < deadline, "the connection is held"
        try:
            connection.sendall(bytes([byte]))
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return received
        if not part:
            return received
        received += part
    raise AssertionError("all was taken")


def test_who_keeps_to_the_limits_may_stay_longer_than_they_are(slow: Served) -> None:
    with slow.connect() as connection:
        for _ in range(3):
            ask_for_health(connection)
            time.sleep(0.7 * LIMIT)


def test_answer_may_take_longer_than_the_client(slow: Served) -> None:
    body = b'{"prompt": "a", "max_tokens": 2, "ignore_eos": true}'
    slow.daemon.model.gate.clear()
    with slow.connect() as connection:
        connection.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(2 * LIMIT)
        slow.daemon.model.gate.set()
        assert parsed(read_all(connection))[0] == 200


def test_client_that_does_not_read_is_given_up(slow: Served) -> None:
    with slow.connect() as connection:
        connection.settimeout(0.1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
            except TimeoutError:
                continue  # all buffers are full
            except (BrokenPipeError, ConnectionResetError):
                return
    raise AssertionError("the connection is held")


def test_connections_beyond_the_limit_are_told_and_the_others_go_on(slow: Served) -> None:
    idle = [slow.connect() for _ in range(5)]
    try:
        with slow.connect() as connection:
            status, headers, body = parsed(read_all(connection))
        assert (status, headers["retry-after"]) == (503, "1")
        assert error_of(body)["code"] == "too_many_connections"
        ask_for_health(idle[0])
    finally:
        for connection in idle:
            connection.close()


def test_half_closed_connection_ends(slow: Served) -> None:
    with slow.connect() as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


def test_websocket_is_an_ordinary_request(slow: Served, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: a\r\nsec-websocket-version: 13\r\n\r\n"
    status, _, body = talk(slow, b"GET /v1/elastic/events HTTP/1.0\r\nhost: evil.example\r\n" + upgrade)
    assert (status, error_of(body)["code"]) == (403, "host_not_allowed")
    assert "WebSocket" not in caplog.text


def test_daemon_answers_afterwards(slow: Served) -> None:
    body = b'{"prompt": "a", "max_tokens": 2}'
    sent = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    status, _, answer = talk(slow, sent)
    assert status == 200
    assert json.loads(answer)["usage"]["completion_tokens"] == 2
