"""Streams as a client sees them, against a server that sends what a test tells it to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.server_process import ServerError
from bench.streams import Stream

Send = Callable[[str], None]
PIECE = '{"choices":[{"text":"word"}],"usage":null}'
NO_TEXT = '{"choices":[{"text":"","finish_reason":"length"}]}'
USAGE = '{"choices":[],"usage":{"completion_tokens":7}}'


class Fake(ThreadingHTTPServer):
    """Answers every request with `script`, which is given a function that sends one event."""

    script: Callable[[Send], None]
    bodies: list[dict[str, object]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

        def send(event: str) -> None:
            line = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

        self.server.script(send)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake(("127.0.0.1", 0), Handler) as server:
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_parts_with_text_are_timed_and_tokens_are_the_servers_count(fake: Fake) -> None:
    def script(send: Send) -> None:
        for event in (PIECE, PIECE, NO_TEXT, USAGE, "[DONE]"):
            send(event)

    fake.script = script
    with Stream(fake.server_port, {"prompt": [1]}) as stream:
        assert stream.finish() == 7
        assert len(stream.pieces) == 2
        assert stream.sent < stream.first <= stream.pieces[1]
    assert fake.bodies == [{"prompt": [1], "stream": True, "stream_options": {"include_usage": True}}]


def test_what_has_come_is_seen_before_the_end(fake: Fake) -> None:
    go_on = threading.Event()

    def script(send: Send) -> None:
        send(PIECE)
        go_on.wait()
        send(USAGE)

    fake.script = script
    with Stream(fake.server_port, {}) as stream:
        stream.wait_for_turn()
        stream.wait_for_pieces(1)
        assert stream.tokens is None
        go_on.set()
        assert stream.finish() == 7


def test_closing_breaks_an_answer_off(fake: Fake) -> None:
    noticed = threading.Event()

    def script(send: Send) -> None:
        try:
            while True:
                send(PIECE)
                time.sleep(0.01)
        except OSError:
            noticed.set()
            raise

    fake.script = script
    fake.handle_error = lambda *_: None  # type: ignore[method-assign]  # it is expected
    with Stream(fake.server_port, {}) as stream:
        stream.wait_for_pieces(2)
        before = time.monotonic()
        assert before <= stream.close() <= time.monotonic()
        assert noticed.wait(10)


def test_an_error_in_the_stream_is_an_error(fake: Fake) -> None:
    fake.script = lambda send: send('{"error":{"message":"out of pages"}}')
    with Stream(fake.server_port, {}) as stream, pytest.raises(ServerError, match="out of pages"):
        stream.finish()


def test_an_answer_that_ends_too_early_is_an_error(fake: Fake) -> None:
    fake.script = lambda send: send(PIECE)
    with Stream(fake.server_port, {}) as stream:
        with pytest.raises(ServerError, match="too early"):
            stream.wait_for_pieces(2)
        with pytest.raises(ServerError, match="usage"):
            stream.finish()


def test_a_refusal_is_an_error(fake: Fake) -> None:
    with Stream(fake.server_port, {}) as stream:
        stream.close()
    fake.RequestHandlerClass = BaseHTTPRequestHandler  # it has no do_POST
    with Stream(fake.server_port, {}) as stream, pytest.raises(ServerError, match="status 501"):
        stream.finish()
