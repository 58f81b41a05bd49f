"""Streamed answers as their client sees them: when each part arrives, while other answers stream beside them."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from bench.server_process import ServerError

_GIVE_UP_SECONDS: Final = 300.0
_DATA: Final = b"data: {"


class Stream:
    """One streamed completion, read on a thread of its own. A context manager that closes the connection.

    All times are of `time.monotonic`, which processes of one machine share.

    Args:
        port: Of the server, on loopback; it must be ready.
        body: Of the request; what makes it a stream with its usage in the end is added.
    """

    def __init__(self, port: int, body: Mapping[str, Any]) -> None:
        self.pieces: list[float] = []
        """When each part with text arrived."""
        self.tokens: int | None = None
        """Of the answer, as the server counts them; None before the end."""
        self.cached_tokens: int | None = None
        """Of the prompt, that the server had computed before; None before the end, and if it does not tell."""
        self._answering = False
        self._ended = False
        self._failure: str | None = None
        self._changed = threading.Condition()  # guards what stands above
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_GIVE_UP_SECONDS)
        self._connection.connect()
        assert self._connection.sock is not None
        self._socket: socket.socket = self._connection.sock
        text = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
        self.sent = time.monotonic()
        """When the request was sent."""
        self._connection.request("POST", "/v1/completions", text, {"content-type": "application/json"})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def first(self) -> float:
        """When the first part arrived, waiting for it."""
        self.wait_for_pieces(1)
        return self.pieces[0]

    def wait_for_turn(self) -> None:
        """Wait until the server has begun to answer, be it without any text yet."""
        self._wait(lambda: self._answering)

    def wait_for_pieces(self, count: int) -> None:
        """Wait until so many parts with text have arrived.

        Raises:
            ServerError: The answer has ended before.
        """
        self._wait(lambda: len(self.pieces) >= count)

    def finish(self) -> int:
        """Wait for the end of the answer; returns the tokens that it has."""
        self._wait(lambda: self._ended)
        if self.tokens is None:
            raise ServerError("the answer ended without its usage")
        return self.tokens

    def close(self) -> float:
        """Close the connection, whatever is still to come; returns when. Closing twice is allowed."""
        closed = time.monotonic()
        with suppress(OSError):  # the server has closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # without, the thread would go on reading
        self._thread.join()
        self._connection.close()
        return closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: done() or self._ended, _GIVE_UP_SECONDS):
                raise ServerError(f"nothing came for {_GIVE_UP_SECONDS:.0f} s")
            if self._failure is not None or not done():
                raise ServerError(self._failure or "the answer ended too early")

    def _run(self) -> None:
        failure = None
        try:
            self._read()
        except (OSError, http.client.HTTPException, ValueError, ServerError) as error:
            failure = f"{type(error).__name__}: {error}"
        with self._changed:
            self._failure, self._ended = failure, True
            self._changed.notify_all()

    def _read(self) -> None:
        with self._connection.getresponse() as response:
            if response.status != http.client.OK:
                raise ServerError(f"status {response.status}: {response.read(500)!r}")
            with self._changed:
                self._answering = True
                self._changed.notify_all()
            for line in response:
                if line.startswith(_DATA):
                    self._take(time.monotonic(), json.loads(line.removeprefix(b"data: ")))

    def _take(self, now: float, event: Mapping[str, Any]) -> None:
        if "error" in event:
            raise ServerError(f"the answer ended with an error: {event['error']}")
        choices = event.get("choices") or [{}]
        with self._changed:
            if choices[0].get("text"):
                self.pieces.append(now)
            if event.get("usage"):
                self.tokens = event["usage"]["completion_tokens"]
                details = event["usage"].get("prompt_tokens_details") or {}
                # llama.cpp's server tells it beside the usage.
                self.cached_tokens = details.get("cached_tokens", event.get("timings", {}).get("cache_n"))
            self._changed.notify_all()
