"""The one thread that computes: it batches what the scheduler says and moves the model's position at safe points."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.segment import Floats
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.admission import Admission, AdmittingBackend, Held
from flexquant.server.answer import Answer
from flexquant.server.api_error import ApiError, as_api_error, client_gone, timed_out, unavailable
from flexquant.server.counts import Counts
from flexquant.server.generation_request import Cut, Event, Failed, GenerationRequest
from flexquant.server.job import Deliver, Job, Stream
from flexquant.server.memory_gate import MemoryGate
from flexquant.server.scheduler import QueueFull, Scheduler, Ticket

log = logging.getLogger(__name__)

_FAILED = "The engine has failed; the log has the details."
_SMOOTHING = 0.1
_PREFILL_SHARE = 1.0
"""Time that a prompt gets between two decode passes, over the time of such a pass."""
_LOOK_S = 0.05
"""While all wait for memory: how often to look for clients that have gone away, and for time that is over."""


class Model(AdmittingBackend, Protocol):
    """A backend that can be resized: what ElasticModel offers the thread that owns it."""

    on_ready: Callable[[], None]
    """Called, from any thread, when a step of a move waits for a safe point."""

    def safe_point(self) -> None:
        """Publish the steps that are ready; for the owning thread alone."""
        ...

    def drop_reusable(self) -> None:
        """Give back, at the next safe point, what is only kept for later prompts."""
        ...


class _GivenUp(Exception):  # noqa: N818  # no error: the client went away, or its time is over
    """Raised at a safe point of a prompt's pass, to leave it."""


class EngineThread:
    """Owns the model: nothing else computes with it.

    All sequences that decode share one pass per token. A prompt goes in by chunks between these passes, and between
    the layers of a chunk the others decode on, so that a long prompt slows them down and never stops them.

    Args:
        model: The model; its `on_ready` is set here.
        tokenizer: Turns the answers' tokens into text.
        parallel: Most sequences that are computed at a time.
        max_queue: Sequences that may wait beyond these.
        timeout_s: Seconds that a request may take, waiting included; None for any.
        clock: Steady seconds.
        gate: How much memory sequences may be promised; its `on_open` is set here. Without, as much as there are pages.
        counts: Told of prompts and tokens.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        parallel: int,
        max_queue: int,
        timeout_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        gate: MemoryGate | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.most_sequences = parallel + max_queue
        """Sequences that one request may ask for: with more, it could never be taken."""
        self._model = model
        self._gate = MemoryGate() if gate is None else gate
        self._admission = Admission(model, tokenizer, self._gate)
        self._counts = Counts() if counts is None else counts
        self._timeout_s = timeout_s
        self._clock = clock
        self._changed = threading.Condition()  # guards what follows
        self._scheduler = Scheduler(parallel=parallel, max_queue=max_queue)
        self._streams: dict[Ticket, Stream] = {}
        self._step_ready = False
        self._draining: str | None = None
        self._closing: str | None = None
        self._failed = False
        # The engine thread's own.
        self._stalled = False  # nothing runs, and the first who waits has to wait for memory
        self._in_pass: Stream | None = None  # whose prompt is between two layers, so that its memory must stay
        self._decoded_at = 0.0
        self._decode_s = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.seconds_per_token: float | None = None
        """Recent time per decode pass; None before the first."""
        model.on_ready = self._gate.on_open = self._wake

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Sequences that wait for their turn."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Sequences that are being computed."""
        return self._scheduler.running

    def check(self) -> None:
        """Raise ApiError (503) while no new requests are taken."""
        self.check_health()
        stopping = self._closing or self._draining
        if stopping is not None:
            raise unavailable(stopping, code="stopping")
        self._gate.check()

    def check_health(self) -> None:
        """Raise ApiError (503) after a mistake of the engine: no request will be taken any more."""
        if self._failed:
            raise unavailable(_FAILED, code="engine_failed")

    def submit(self, requests: Sequence[GenerationRequest], deliver: Deliver) -> Job:
        """Queue the sequences of one request, all or none.

        Args:
            requests: One for each sequence, those of equal prompts one after the other.
            deliver: Gets the events, on the engine thread; it must not block or raise. After one that is Failed no
                more come. A job that is cancelled while it waits gets none.

        Raises:
            ApiError: 503, when the queue is full, the daemon is stopping, or memory is too short for new work.
        """
        job, now = Job(deliver), self._clock()
        expires = None if self._timeout_s is None else now + self._timeout_s
        streams: list[Stream] = []
        for number, request in enumerate(requests):
            before = streams[-1] if streams and streams[-1].request.prompt == request.prompt else None
            if request.scores_prompt:
                before = None
            # The first of several choices computes the prompt for all: next to nothing is left for the others.
            first = None if before is None else before.ticket.after or before.ticket
            ticket = Ticket(len(request.prompt) if first is None else 1, now, expires, first)
            streams.append(Stream(number, job, request, ticket))
        with self._changed:
            self.check()
            self._forget_cancelled_waiting()
            try:
                self._scheduler.submit([stream.ticket for stream in streams])
            except QueueFull as full:
                raise unavailable(
                    f"{self._scheduler.waiting} of at most {full.limit} sequences are waiting already (--max-queue).",
                    code="queue_full",
                ) from full
            self._streams.update((stream.ticket, stream) for stream in streams)
            self._changed.notify()
        return job

    def drain(self, reason: str) -> None:
        """Take no more requests, and end those whose turn has not come with 503 and `reason`; the others go on."""
        with self._changed:
            self._draining = reason
            self._changed.notify()

    def stop(self, reason: str) -> None:
        """Take no more requests, and end those that are waiting or running with 503 and `reason`."""
        with self._changed:
            if self._closing is None:
                self._closing = reason
            for stream in self._streams.values():
                stream.job.cancel()
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread, after `stop`."""
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._step_ready = True
            self._changed.notify()

    def _forget_cancelled_waiting(self) -> None:
        """A client that has gone away while it waited holds no place in the queue."""
        for ticket, stream in list(self._streams.items()):
            if stream.answer is None and stream.job.cancelled.is_set() and self._closing is None:
                self._scheduler.leave(ticket)
                del self._streams[ticket]

    # --- engine thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._model.safe_point()
                self._end_gone()
                decoding, _ = self._turn()
                self._decode(decoding)
                self._admit()
                _, prefilling = self._turn()
                if prefilling is not None:
                    self._prefill(prefilling)
        except Exception:
            log.exception("the engine thread has failed")
            self._failed = True
            self.stop(_FAILED)
            for stream in list(self._streams.values()):
                stream.tell(Failed(unavailable(_FAILED, code="engine_failed")))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when there never will be."""
        with self._changed:
            if self._stalled and not (self._step_ready or self._closing):
                self._changed.wait(_LOOK_S)
            while not (self._streams or self._step_ready or self._closing):
                self._changed.wait()
            self._step_ready = self._stalled = False
            return bool(self._streams) or not self._closing

    def _turn(self) -> tuple[list[Stream], Stream | None]:
        """Who decodes, and whose prompt goes on."""
        with self._changed:
            turn = self._scheduler.turn()
            prefilling = None if turn.prefilling is None else self._streams[turn.prefilling]
            return [self._streams[ticket] for ticket in turn.decoding], prefilling

    def _end_gone(self) -> None:
        """End what was cancelled or has run out of time."""
        with self._changed:
            gone = [stream for stream in self._streams.values() if stream.job.cancelled.is_set()]
            late = [self._streams[ticket] for ticket in self._scheduler.expired(self._clock())]
            waiting = [] if self._draining is None else self._not_begun()
        for stream in gone:
            self._end(stream, client_gone() if self._closing is None else unavailable(self._closing, code="stopping"))
        for stream in waiting:
            self._end(stream, unavailable(self._draining or "", code="stopping"))
        for stream in late:
            self._end(stream, timed_out(self._timeout_s or 0.0))

    def _not_begun(self) -> list[Stream]:
        """Sequences of requests of which none has been admitted."""
        begun = {id(stream.job) for stream in self._streams.values() if stream.answer is not None}
        return [stream for stream in self._streams.values() if id(stream.job) not in begun]

    def _admit(self) -> None:
        """Begin the next answers, as far as places, memory and pages reach."""
        held: list[tuple[Stream, Held]] = []

        def reserve(ticket: Ticket) -> bool:
            stream = self._streams[ticket]
            begun = self._admission.begin(stream.request)
            if isinstance(begun, Held):
                held.append((stream, begun))
                return False
            stream.answer = begun
            return True

        with self._changed:
            admitted = [self._streams[ticket] for ticket in self._scheduler.admit(reserve)]
            alone = not self._scheduler.running
        if not held:
            self._gate.nobody_waits()
        for stream, reason in held:
            error = reason.end(alone=alone)
            if error is None:
                self._stalled = alone
            else:
                self._end(stream, error)
        for stream in admitted:
            assert stream.answer is not None, "an admitted stream has one"
            stream.tell(stream.answer.begin())

    def _prefill(self, stream: Stream) -> None:
        """Put the next chunk of a prompt in."""
        answer = stream.answer
        assert answer is not None, "an admitted stream has one"

        def between_layers() -> None:
            self._end_gone()
            if self._clock() - self._decoded_at >= _PREFILL_SHARE * self._decode_s:
                self._decode(self._turn()[0])
            if stream.job.cancelled.is_set():
                raise _GivenUp
            answer.note_position()

        failure: ApiError | None = None
        events: Sequence[Event] = ()
        self._in_pass = stream
        try:
            events = answer.accept(self._model.forward([answer.next_segment()], between_layers)[0])
        except _GivenUp:
            pass  # its memory is free at the next turn, when nothing uses it any more
        except KVExhaustedError as error:
            if stream.starved:
                failure = as_api_error(error)
            stream.starved = True  # once more, when what is only kept has gone
            self._model.drop_reusable()
        except Exception as error:
            # Not the error itself: its traceback holds views of arenas, which must die before the next safe point.
            failure = as_api_error(error)
        finally:
            self._in_pass = None
        if failure is not None:
            self._end(stream, failure)
            return
        if answer.decoding:
            with self._changed:
                self._scheduler.prefilled(stream.ticket)
            self._counts.prompt_tokens.add(len(stream.request.prompt))
            self._counts.cached_prompt_tokens.add(answer.cached_tokens)
            if answer.generated_tokens:
                self._count_token(stream, self._clock())
        self._tell(stream, events)

    def _decode(self, streams: Sequence[Stream]) -> None:
        """One pass of all sequences whose prompts are in: a token each."""
        running = [(stream, stream.answer) for stream in streams if stream.answer and not stream.job.cancelled.is_set()]
        dropped = False
        while running:
            began = self._clock()
            try:
                logits = self._model.forward([answer.next_segment() for _, answer in running])
            except KVExhaustedError as error:
                failure = as_api_error(error)
                if dropped:  # the youngest makes room for the others
                    youngest = running[-1][0]
                    self._end(youngest, failure)
                    running = [other for other in running if other[0].job is not youngest.job]
                dropped = True
                self._model.drop_reusable()
                continue
            except Exception as error:
                failure = as_api_error(error)
                for stream, _ in running:
                    self._end(stream, failure)
                return
            now = self._clock()
            for (stream, answer), row in zip(running, logits, strict=True):
                self._take(stream, answer, row, now)
            self._note_pass(began, self._clock())
            return

    def _take(self, stream: Stream, answer: Answer, logits: Floats, now: float) -> None:
        try:
            events = answer.accept(logits)
        except Exception as error:
            self._end(stream, as_api_error(error))
        else:
            self._count_token(stream, now)
            self._tell(stream, events)

    def _count_token(self, stream: Stream, now: float) -> None:
        """Before its client hears of it: who has an answer finds it counted."""
        self._counts.generated_tokens.add(1)
        if stream.token_at is None:
            self._counts.first_token.observe(now - stream.ticket.arrived)
        else:
            self._counts.next_token.observe(now - stream.token_at)
        stream.token_at = now

    def _tell(self, stream: Stream, events: Sequence[Event]) -> None:
        for event in events:
            stream.tell(event)
        if stream.answer is not None and stream.answer.finished:
            self._leave(stream)

    def _end(self, stream: Stream, error: ApiError) -> None:
        """End a sequence before its time, and with it the others of its request."""
        with self._changed:
            siblings = [other for other in self._streams.values() if other.job is stream.job]
        for other in siblings:
            if other.answer is not None:
                other.tell(Cut(other.answer.usage))
            if other is self._in_pass:
                other.job.cancel()  # it leaves at its next safe point
            else:
                self._leave(other)
        if siblings:
            stream.tell(Failed(error))

    def _leave(self, stream: Stream) -> None:
        if stream.answer is not None:
            stream.answer.close()
        with self._changed:
            self._scheduler.leave(stream.ticket)
            self._streams.pop(stream.ticket, None)

    def _note_pass(self, began: float, ended: float) -> None:
        self._decoded_at, self._decode_s = ended, ended - began
        recent = self.seconds_per_token
        self.seconds_per_token = self._decode_s if recent is None else recent + _SMOOTHING * (self._decode_s - recent)
