"""The daemon ends in the middle of a swap: asked to, everybody is answered; killed, nothing stands in its way again."""

import itertools
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.daemon import RunningDaemon, running_daemon
from support.ensembles import Shape, random_ensemble

pytestmark = pytest.mark.e2e

SHAPE = Shape(hidden=768, intermediate=2048, layers=8, heads=12, kv_heads=4, vocab=512)
"""About 52 MB at 8 bits in 57 steps."""
STREAMS = 3
GRACE_SECONDS = 10.0
"""For what comes after --shutdown-timeout, on whatever machine this runs."""


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_ensemble(tmp_path_factory.mktemp("clean_end") / "ensemble", SHAPE)


@dataclass
class Talker:
    """Reads one stream on a thread of its own."""

    url: str
    tokens: int
    lines: list[str] = field(default_factory=list)
    error: Exception | None = None
    begun: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        body = {"prompt": "On and on", "max_tokens": self.tokens, "ignore_eos": True, "stream": True}
        try:
            with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=120) as answer:
                assert answer.status_code == 200
                for line in answer.iter_lines():
                    if line:
                        self.lines.append(line)
                        self.begun.set()
        except (httpx.HTTPError, AssertionError) as error:
            self.error = error
        finally:
            self.begun.set()

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join(120)
        assert not self._thread.is_alive()

    def last(self) -> Any:
        """The last event but `[DONE]`, when the stream has ended."""
        self.join()
        assert self.error is None, self.error
        return json.loads([line for line in self.lines if line != "data: [DONE]"][-1].removeprefix("data: "))


@dataclass
class Mover:
    """Orders moves from end to end, one after the other, until the daemon takes no more."""

    url: str
    positions: tuple[int, ...]
    answers: list[httpx.Response] = field(default_factory=list)
    broken: bool = False
    """Whether an order was taken and never answered."""

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._move)
        self._thread.start()

    def _move(self) -> None:
        for position in itertools.cycle(self.positions):
            try:
                body = {"position": position}
                self.answers.append(httpx.post(f"{self.url}/v1/elastic/target", json=body, timeout=120))
            except httpx.ConnectError:
                return
            except httpx.HTTPError:
                self.broken = True
                return

    def join(self) -> None:
        """Wait until the daemon takes no more."""
        self._thread.join(120)
        assert not self._thread.is_alive()


def interrupt_a_swap(daemon: RunningDaemon, number: int, tokens: int) -> tuple[list[Talker], Mover]:
    """Let streams run and the model move; send the signal when it is seen on its way."""
    last = daemon.get("/v1/elastic").json()["max_position"]
    talkers = [Talker(daemon.url, tokens) for _ in range(STREAMS)]
    for talker in talkers:
        assert talker.begun.wait(60)
    mover, deadline = Mover(daemon.url, (last, 0)), time.monotonic() + 60
    with httpx.Client(base_url=daemon.url) as client:
        while (state := client.get("/v1/elastic").json())["position"] == state["target"]:
            assert time.monotonic() < deadline
        daemon.process.send_signal(number)
    return talkers, mover


def test_sigterm_in_a_swap_lets_streams_and_swap_finish(ensemble: Path, tmp_path: Path) -> None:
    with running_daemon(tmp_path, "--pin=0", "--shutdown-timeout=60", model=str(ensemble)) as daemon:
        talkers, mover = interrupt_a_swap(daemon, signal.SIGTERM, tokens=150)
        for talker in talkers:
            assert talker.last()["choices"][0]["finish_reason"] == "length"
            assert talker.lines[-1] == "data: [DONE]"
        mover.join()
        assert not mover.broken
        assert mover.answers
        assert all(answer.status_code == 200 for answer in mover.answers)
        assert all(answer.json()["position"] == answer.json()["target"] for answer in mover.answers)
        assert daemon.process.wait(60) == 0
        assert "Traceback" not in daemon.log()


def test_sigterm_in_a_swap_tells_everybody_when_time_is_over(ensemble: Path, tmp_path: Path) -> None:
    timeout = 0
    with running_daemon(tmp_path, "--pin=0", f"--shutdown-timeout={timeout}", model=str(ensemble)) as daemon:
        talkers, mover = interrupt_a_swap(daemon, signal.SIGTERM, tokens=400)
        began = time.monotonic()
        ends = [talker.last() for talker in talkers]
        assert all(end["error"]["code"] == "stopping" for end in ends), ends
        mover.join()
        assert daemon.process.wait(60) == 0
        assert time.monotonic() - began < timeout + GRACE_SECONDS
        assert not mover.broken, "who ordered the swap is told, too"
        for answer in mover.answers:
            assert answer.status_code == 200 or answer.json()["error"]["code"] == "stopping", answer.text
        assert "Traceback" not in daemon.log()


def files(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob("*")):
        found = path.stat()
        yield str(path.relative_to(folder)), found.st_size if path.is_file() else 0, found.st_mtime_ns


def test_sigkill_in_a_swap_leaves_nothing_behind(ensemble: Path, tmp_path: Path) -> None:
    kept, temporary, home = tmp_path / "ensemble", tmp_path / "temporary", tmp_path / "home"
    shutil.copytree(ensemble, kept)
    environment = {"TMPDIR": str(temporary), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    for folder in (temporary, home):
        folder.mkdir()
    before = list(files(kept))
    with running_daemon(tmp_path, "--pin=0", model=str(kept), environment=environment) as daemon:
        talkers, mover = interrupt_a_swap(daemon, signal.SIGKILL, tokens=400)
        assert daemon.process.wait(60) == -signal.SIGKILL
        for talker in talkers:
            talker.join()
        mover.join()
        port = daemon.url.rsplit(":", 1)[1]
    assert list(files(kept)) == before
    assert list(temporary.iterdir()) == list(home.iterdir()) == []
    with running_daemon(tmp_path, "--pin=0", f"--port={port}", model=str(kept), environment=environment) as daemon:
        assert daemon.url.endswith(f":{port}"), "the same port, at once"
        answer = daemon.post("/v1/completions", {"prompt": "On and on", "max_tokens": 4, "ignore_eos": True})
        assert answer.json()["usage"]["completion_tokens"] == 4
        assert daemon.get("/v1/elastic").json()["position"] == 0
        assert daemon.stop() == 0
