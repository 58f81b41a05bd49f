"""Asking and listening, and going on after the daemon was away."""

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from flexquant.clients import Client, UnreachableError
from flexquant.clients.top import watch as module
from flexquant.clients.top.view import View
from flexquant.clients.top.watch import Watch
from support import told


class Daemon:
    """A daemon that can go away, and come back as one that serves another model.

    `seen` is set by each change of the watch's view.
    """

    def __init__(self) -> None:
        self.away = False
        self.model = "my-llama"
        self.seen = threading.Event()
        self.watch = Watch(Client("http://here", transport=httpx.MockTransport(self._answer)), 0.01, self.seen.set)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("refused")
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{**told.MODELS["data"][0], "id": self.model}]})
        return told.answer(request)

    def until(self, reached: Callable[[View], bool]) -> View:
        """Wait for a view that is like that."""
        deadline = time.monotonic() + 20
        while not reached(self.watch.view):
            assert time.monotonic() < deadline, self.watch.view
            self.seen.wait(1)
            self.seen.clear()
        return self.watch.view


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK_OFF_S", (0.01,))


def test_readings_and_decisions_arrive() -> None:
    daemon = Daemon()
    with daemon.watch.running():
        view = daemon.until(lambda view: bool(view.decisions) and len(view.readings) > 2)
    assert view.decisions == (told.decision(),)
    assert (view.model, view.problem) == ("my-llama", None)
    assert view.last is not None
    assert view.last.elastic.position == 3


def test_a_daemon_that_comes_back_is_watched_again() -> None:
    daemon = Daemon()
    with daemon.watch.running():
        daemon.until(lambda view: bool(view.readings))
        daemon.away = True
        view = daemon.until(lambda view: view.problem is not None)
        assert view.problem == "http://here: no daemon answers (refused)"
        assert view.readings, "what was known stays"
        daemon.away, daemon.model = False, "another"
        view = daemon.until(lambda view: view.problem is None)
    assert view.model == "another"


def test_the_first_question_fails_where_there_is_no_daemon() -> None:
    daemon = Daemon()
    daemon.away = True
    with pytest.raises(UnreachableError):
        daemon.watch.read()


def test_a_daemon_without_events_is_watched_by_readings_alone() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path.endswith("/events"):
            return httpx.Response(404, json={"error": {"message": "none", "code": "not_found"}})
        return told.answer(request)

    watch = Watch(Client("http://here", transport=httpx.MockTransport(answer)), 0.01, lambda: None)
    with watch.running():
        deadline = time.monotonic() + 20
        while len(watch.view.readings) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert asked.count("/v1/elastic/events") == 1
