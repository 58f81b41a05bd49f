"""Requests to an engine thread over the fake model, and what is heard of them."""

import queue
import time
from collections.abc import Callable

from flexquant.engine.sampling import GREEDY
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Event, Failed, Finished, GenerationRequest
from flexquant.server.job import Job
from support.fake_model import FakeModel

WAIT = 30.0
"""Seconds after which something is broken."""
PAGES = 64
"""KV pages of the models that engine threads run."""


class Listener:
    """Collects the events of one request."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, Event]] = queue.Queue()

    def deliver(self, number: int, event: Event) -> None:
        self.events.put((number, event))

    def next(self) -> Event:
        return self.events.get(timeout=WAIT)[1]

    def last(self) -> Finished | Failed:
        while True:
            event = self.next()
            if isinstance(event, Finished | Failed):
                return event

    def outcomes(self, sequences: int) -> list[Finished | Failed]:
        """How so many sequences ended, in the order in which they did."""
        return [self.last() for _ in range(sequences)]


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def request(prompt: int = 3, max_tokens: int = 4, first: int = 70) -> GenerationRequest:
    return GenerationRequest([first] * prompt, max_tokens, GREEDY)


def submit(engine: EngineThread, *asked: GenerationRequest) -> tuple[Job, Listener]:
    listener = Listener()
    return engine.submit(asked, listener.deliver), listener


def hold(model: FakeModel, engine: EngineThread, *asked: GenerationRequest) -> tuple[Job, Listener]:
    """Submit a request and stop it within its first pass."""
    model.gate.clear()
    job, listener = submit(engine, *asked)
    assert model.at_gate.wait(WAIT)
    return job, listener


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
