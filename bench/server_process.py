"""Servers in processes of their own, and the time from their start to the first token over HTTP."""

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bench.worker import ROOT

_GIVE_UP_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.005
_STOP_SECONDS: Final = 30.0


class ServerError(Exception):
    """A server did not come up, or did not answer as it should."""


class Server:
    """A running server.

    Args:
        process: Its process.
        port: On loopback.
        started: `time.perf_counter` just before it was spawned.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, started: float) -> None:
        self.process = process
        self.port = port
        self._started = started

    def first_token(self, body: Mapping[str, Any]) -> float:
        """Ask for a completion as soon as it answers, and wait for the first streamed text.

        Returns:
            Seconds since the process was spawned.
        """
        while True:
            self._check_alive()
            try:
                return self._stream(body, end_early=True)
            except (ConnectionError, http.client.HTTPException):
                time.sleep(_POLL_SECONDS)

    def complete(self, body: Mapping[str, Any]) -> None:
        """Ask for a completion and read all of it."""
        self._stream(body, end_early=False)

    def get(self, path: str) -> Any:
        """JSON of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_GIVE_UP_SECONDS)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _stream(self, body: Mapping[str, Any], *, end_early: bool) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_GIVE_UP_SECONDS)
        try:
            text = json.dumps({**body, "stream": True})
            connection.request("POST", "/v1/completions", text, {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status == http.client.SERVICE_UNAVAILABLE:
                raise ConnectionRefusedError("not ready yet")
            if response.status != http.client.OK:
                raise ServerError(f"status {response.status}: {response.read(500)!r}")
            seconds = 0.0
            for line in response:
                if not seconds and _text_of(line):
                    seconds = time.perf_counter() - self._started
                    if end_early:
                        break
            if not seconds:
                raise ServerError("the answer had no text")
            return seconds
        finally:
            connection.close()

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            raise ServerError(f"the server ended with exit code {self.process.returncode}")
        if time.perf_counter() > self._started + _GIVE_UP_SECONDS:
            raise ServerError(f"the server did not answer within {_GIVE_UP_SECONDS:.0f} s")


@contextmanager
def server(command: Sequence[str]) -> Iterator[Server]:
    """Spawn `command --port PORT` and stop it in the end. Its log is shown if it fails.

    Raises:
        ServerError: Raised inside the block, with the end of the log added.
    """
    port = _free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEXQUANT_")}
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, cwd=ROOT, env=kept)
        try:
            yield Server(process, port, started)
        except ServerError as error:
            log.seek(0)
            raise ServerError(f"{error}\n{log.read().decode(errors='replace')[-2000:]}") from error
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _text_of(line: bytes) -> str:
    """Text in a line of server-sent events."""
    if not line.startswith(b"data: {"):
        return ""
    choices = json.loads(line.removeprefix(b"data: ")).get("choices") or [{}]
    text: str = choices[0].get("text") or ""
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
