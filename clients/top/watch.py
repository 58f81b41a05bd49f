"""Asks a daemon and listens to its events, in threads of its own, and goes on when the daemon comes back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

from flexquant.clients.client import Client
from flexquant.clients.errors import ClientError, NotFoundError
from flexquant.clients.top.view import Reading, View
from flexquant.clients.types import Decision

BACK_OFF_S: Final = (0.5, 1.0, 2.0, 5.0)
"""Waits after failures in a row; the last one repeats."""


class Watch:
    """Keeps a view up to date.

    Args:
        client: Of the daemon; used by several threads.
        interval: Seconds between two readings. An event brings the next one forward.
        changed: Called, by any thread, after each change of the view.
        clock: Seconds since 1970.
    """

    def __init__(
        self, client: Client, interval: float, changed: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._interval = interval
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._view = View(client.url)
        self._model: str | None = None
        self._due = threading.Event()
        self._ended = threading.Event()

    @property
    def view(self) -> View:
        """What is known now."""
        return self._view

    def read(self) -> None:
        """Ask once.

        Raises:
            ClientError: The daemon cannot be asked, or refuses.
        """
        if self._model is None:  # also after a restart: it may serve another one then
            self._model = self._client.models()[0].id
        elastic, load = self._client.elastic(), self._client.load()
        model = self._model
        self._update(lambda view: view.read(Reading(self._clock(), elastic, load), model))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask and listen until the block ends; what waits for the network then is left to the end of the process."""
        for work in (self._ask, self._listen):
            threading.Thread(target=self._work, args=(work,), name=f"top{work.__name__}", daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()
            self._due.set()

    def ask_now(self) -> None:
        """Bring the next reading forward."""
        self._due.set()

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # whatever comes of a client that is closed meanwhile
            if not self._ended.is_set():
                raise

    def _ask(self) -> None:
        waits = _back_off()
        while not self._ended.is_set():
            wait = self._interval
            try:
                self.read()
                waits = _back_off()
            except ClientError as error:
                wait = next(waits)
                self._lost(error.message)
            self._due.wait(wait)
            self._due.clear()

    def _listen(self) -> None:
        waits = _back_off()
        while not self._ended.is_set():
            try:
                with closing(self._client.events()) as events:
                    for event in events:
                        waits = _back_off()
                        if event.decision is not None:
                            self._decided(event.decision)
                        self._due.set()
            except NotFoundError:
                return  # a daemon without events: readings alone will do
            except ClientError:
                pass  # who asks says why
            self._ended.wait(next(waits))

    def _lost(self, problem: str) -> None:
        self._model = None
        self._update(lambda view: view.lost(problem))

    def _decided(self, decision: Decision) -> None:
        self._update(lambda view: view.decided([decision]))

    def _update(self, change: Callable[[View], View]) -> None:
        with self._lock:
            self._view = change(self._view)
        self._changed()


def _back_off() -> Iterator[float]:
    yield from BACK_OFF_S
    while True:
        yield BACK_OFF_S[-1]
