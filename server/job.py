"""A request on its way through the engine thread: the job, and its sequences."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from flexquant.server.answer import Answer
from flexquant.server.generation_request import Event, Failed, GenerationRequest
from flexquant.server.scheduler import Ticket

Deliver = Callable[[int, Event], None]
"""Takes the events of a request's sequences, by the sequence's number."""


class Job:
    """A request that was handed over: its sequences stand and fall together."""

    def __init__(self, deliver: Deliver) -> None:
        self.deliver = deliver
        self.cancelled = threading.Event()
        self.failed = False
        """Whether its client was told that it has failed; the engine thread's own."""

    def cancel(self) -> None:
        """Give the request up, from any thread, at any time; its memory is free at the next safe point."""
        self.cancelled.set()


@dataclass(eq=False, slots=True)
class Stream:
    """One sequence of a job."""

    number: int
    job: Job
    request: GenerationRequest
    ticket: Ticket
    answer: Answer | None = None
    """From its admission on."""
    starved: bool = False
    """Whether there was no memory for a page of its prompt."""
    token_at: float | None = None
    """When its latest token was there, in seconds of the clock that `ticket` has; None before the first."""

    def tell(self, event: Event) -> None:
        """Deliver an event, unless the client was told of a failure already."""
        if not self.job.failed:
            self.job.failed = isinstance(event, Failed)
            self.job.deliver(self.number, event)
