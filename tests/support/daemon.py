"""Starts the real `flexquant-serve` in a process of its own, for end-to-end tests."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon that is ready.

    Args:
        url: Such as "http://127.0.0.1:41234".
        process: Its process.
        log_path: Where its stderr goes.
    """

    url: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text()

    def lines_with(self, text: str) -> list[str]:
        """Its log lines with `text`, at least one: a request is logged when it has ended, just after its answer."""
        deadline = time.monotonic() + 30
        while not (lines := [line for line in self.log().splitlines() if text in line]):
            assert time.monotonic() < deadline, f"{text!r} is not in the log:\n{self.log()}"
            time.sleep(0.02)
        return lines

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET below its address."""
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        """POST JSON below its address."""
        return httpx.post(self.url + path, json=body, timeout=120, **options)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def serve_command(*arguments: str) -> list[str]:
    """The command line of a daemon in this environment."""
    return [sys.executable, "-m", "flexquant.server.main", *arguments]


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without settings of FlexQuant."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEXQUANT_")}
    return kept | dict(more or {})


@contextmanager
def running_daemon(
    folder: Path,
    *arguments: str,
    model: str = "demo",
    environment: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[RunningDaemon]:
    """A daemon on a free port of loopback, from ready until the block ends.

    Args:
        folder: For its log.
        arguments: Further flags.
        model: What it serves.
        environment: Variables to add.
        start_seconds: Most time until it is ready.
    """
    command = serve_command("--model", model, "--port", "0", *arguments)
    running = daemon_of(command, folder / "daemon.log", clean_environment(environment), start_seconds=start_seconds)
    try:
        yield running
    finally:
        _end(running.process)


def daemon_of(
    command: Sequence[str],
    log_path: Path,
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    start_seconds: float = START_SECONDS,
) -> RunningDaemon:
    """Start a command that becomes a daemon, and wait until it is ready. Whoever calls ends it.

    Args:
        command: Listens on loopback.
        log_path: For its output.
        environment: All of it.
        cwd: Folder that it runs in.
        start_seconds: Most time until it is ready.

    Raises:
        AssertionError: It did not become ready; it does not run any more.
    """
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(environment), cwd=cwd)
    try:
        return RunningDaemon(_wait_until_ready(process, log_path, start_seconds), process, log_path)
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log_path: Path, seconds: float) -> str:
    """The address from the daemon's ready line, once /ready says so too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        for line in log_path.read_text().splitlines():
            if ready := re.search(r"ready: .* on (http://.*:\d+)", line):
                url = ready[1]
                assert httpx.get(f"{url}/ready", timeout=10).status_code == 200
                return url
        time.sleep(0.05)
    raise AssertionError(f"the daemon did not become ready:\n{log_path.read_text()}")
