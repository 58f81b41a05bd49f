"""Told to stop: who runs may finish, who waits is told at once, who is cut hears why, and a second signal is enough."""

import json
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support.daemon import RunningDaemon, running_daemon

pytestmark = pytest.mark.e2e

TEXT = "/v1/completions"
LONG = {"prompt": "On and on", "max_tokens": 900, "ignore_eos": True}
FLAGS = ("--context=1024", "--parallel=1", "--pin=0")
SOON_S = 15.0
"""At once, on whatever machine this runs."""


class Stream:
    """Reads a streamed completion on a thread of its own; ready when the first chunk is there."""

    def __init__(self, daemon: RunningDaemon, body: dict[str, Any]) -> None:
        self.events: list[Any] = []
        self.done = False
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(daemon.url, body))
        self._thread.start()
        assert self._begun.wait(60)

    def _read(self, url: str, body: dict[str, Any]) -> None:
        with httpx.stream("POST", url + TEXT, json=body | {"stream": True}, timeout=120) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))
                    self._begun.set()

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(120)
        assert not self.running


class Waiting:
    """A request that waits for its turn, on a thread of its own."""

    def __init__(self, daemon: RunningDaemon, *, stream: bool) -> None:
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._post, args=(daemon, stream))
        self._thread.start()

    def _post(self, daemon: RunningDaemon, stream: bool) -> None:
        self.answer = daemon.post(TEXT, LONG | {"stream": stream})

    def join(self) -> httpx.Response:
        """Its answer."""
        self._thread.join(120)
        assert self.answer is not None
        return self.answer


def until_waiting(daemon: RunningDaemon, count: int) -> None:
    deadline = time.monotonic() + 60
    while f"flexquant_requests_waiting {count}\n" not in daemon.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_runs_finishes_and_who_waits_is_told_at_once(tmp_path: Path) -> None:
    with running_daemon(tmp_path, *FLAGS, "--shutdown-timeout=100") as daemon:
        stream = Stream(daemon, LONG)
        waiting = [Waiting(daemon, stream=False), Waiting(daemon, stream=True)]
        until_waiting(daemon, 2)
        daemon.process.send_signal(signal.SIGTERM)
        for answer in (other.join() for other in waiting):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "stopping"
        assert stream.running, "they did not have to wait for its end"
        with pytest.raises(httpx.ConnectError):
            daemon.get("/ready")
        stream.join()
        assert stream.events[-1]["choices"][0]["finish_reason"] == "length"
        assert stream.done
        assert daemon.process.wait(SOON_S) == 0
        assert "Traceback" not in daemon.log()


def test_real_client_gets_the_usage_and_then_an_exception_when_its_time_is_over(tmp_path: Path) -> None:
    with (
        running_daemon(tmp_path, *FLAGS, "--shutdown-timeout=0.2") as daemon,
        openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        stream = client.completions.create(
            model="demo",
            prompt="On and on",
            max_tokens=900,
            extra_body={"ignore_eos": True},
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [next(stream)]
        daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError) as told:
            chunks.extend(stream)
        assert told.value.code == "stopping"
        usage = chunks[-1].usage
        assert usage is not None
        assert 0 < usage.completion_tokens < 900
        assert not [choice for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        assert daemon.process.wait(SOON_S) == 0
        assert "Traceback" not in daemon.log()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    with running_daemon(tmp_path, *FLAGS, "--shutdown-timeout=1000") as daemon:
        stream = Stream(daemon, LONG | {"n": 2})
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert stream.running
        began = time.monotonic()
        daemon.process.send_signal(second)
        assert daemon.process.wait(SOON_S) == 0
        assert time.monotonic() - began < SOON_S
        stream.join()
        assert stream.events[-1]["error"]["code"] == "stopping"
        assert not stream.done
        assert "Traceback" not in daemon.log()


def test_client_that_does_not_read_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with running_daemon(tmp_path, *FLAGS, "--shutdown-timeout=1000") as daemon, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(daemon.url.rsplit(":", 1)[1])))
        connection.settimeout(1)
        with suppress(TimeoutError):  # when all buffers are full
            while True:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
        daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(0.5)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(SOON_S) == 0
        assert "Traceback" not in daemon.log()
        assert "Cancel" not in daemon.log()
