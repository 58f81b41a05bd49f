"""The one thread that computes: it answers requests in turn and moves the model's position at safe points."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.answer import Answer, Cancelled, PositionedBackend
from flexquant.server.error_envelope import as_api_error, client_gone, unavailable
from flexquant.server.generation_request import Event, Failed, GenerationRequest

log = logging.getLogger(__name__)

_SMOOTHING = 0.1


class Model(PositionedBackend, Protocol):
    """A backend that can be resized: what ElasticModel offers the thread that owns it."""

    on_ready: Callable[[], None]
    """Called, from any thread, when a step of a move waits for a safe point."""

    def safe_point(self) -> None:
        """Publish the steps that are ready; for the owning thread alone."""
        ...


class Job:
    """A request that was handed over. `cancel` may be called from any thread, at any time."""

    def __init__(self, request: GenerationRequest, deliver: Callable[[Event], None]) -> None:
        self.request = request
        self.deliver = deliver
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        """Give the request up; the engine thread stops at its next safe point."""
        self.cancelled.set()


class EngineThread:
    """Owns the model: nothing else computes with it.

    Args:
        model: The model; its `on_ready` is set here.
        tokenizer: Turns the answer's tokens into text.
        max_queue: Requests that may wait while one is answered.
        clock: Steady seconds.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, *, max_queue: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_queue = max_queue
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._step_ready = False
        self._closing: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.seconds_per_token: float | None = None
        """Recent time per decoded token; None before the first."""
        model.on_ready = self._wake

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and self._closing is None

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def submit(self, request: GenerationRequest, deliver: Callable[[Event], None]) -> Job:
        """Queue a request. `deliver` gets its events, on the engine thread; it must not block or raise.

        A request that is cancelled while it waits gets no events.

        Raises:
            ApiError: 503, when the queue is full or the daemon is stopping.
        """
        job = Job(request, deliver)
        with self._changed:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.cancelled.is_set())
            if self._closing is not None:
                raise unavailable(self._closing, code="stopping")
            # A queued request takes no place once the thread is free to begin with it.
            if len(self._waiting) - (self._running is None) >= self._max_queue:
                raise unavailable(
                    f"{self._max_queue} requests are waiting already, the limit of --max-queue.", code="queue_full"
                )
            self._waiting.append(job)
            self._changed.notify()
        return job

    def stop(self, reason: str) -> None:
        """Take no more requests, and end those that are waiting or running with 503 and `reason`."""
        with self._changed:
            if self._closing is None:
                self._closing = reason
            for job in (self._running, *self._waiting):
                if job is not None:
                    job.cancel()
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread, after `stop`."""
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._step_ready = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("the engine thread has failed")
            reason = "The engine has failed; the log has the details."
            self.stop(reason)
            for job in (self._running, *self._waiting):
                if job is not None:
                    job.deliver(Failed(unavailable(reason, code="engine_failed")))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not (self._waiting or self._step_ready or self._closing):
                    self._changed.wait()
                self._step_ready = False
                if self._waiting:
                    self._running = self._waiting.popleft()
                elif self._closing:
                    return
            self._model.safe_point()
            if self._running is not None:
                self._serve(self._running)

    def _serve(self, job: Job) -> None:
        """Answer one request to its end; whatever happens, its client hears of it and the thread goes on."""
        try:
            with Answer(job.request, self._model, self._tokenizer, cancelled=job.cancelled.is_set) as answer:
                job.deliver(answer.begin())
                while not answer.finished:
                    before, decoding = self._clock(), answer.decoding
                    for event in answer.step():
                        job.deliver(event)
                    if decoding:
                        self._note_token(self._clock() - before)
        except Cancelled:
            job.deliver(Failed(client_gone() if self._closing is None else unavailable(self._closing, code="stopping")))
        except Exception as error:
            # Not the error itself: its traceback holds views of arenas, which must die before the next safe point.
            job.deliver(Failed(as_api_error(error)))

    def _note_token(self, seconds: float) -> None:
        recent = self.seconds_per_token
        self.seconds_per_token = seconds if recent is None else recent + _SMOOTHING * (seconds - recent)
