"""Moves a model along its sequence: reads ahead on a thread of its own, changes arenas at safe points.

Two threads meet here. The *loader* prepares the next step, never more than one ahead. The *engine thread* publishes a
prepared step at a safe point, when no tensor view of an arena is alive. A step that cannot be loaded leaves the
position where it was. A step that reads nothing takes the engine thread alone.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from flexquant.engine.arena_set import ArenaSet, Read
from flexquant.engine.errors import ClosedError, FlexQuantError, SwapError
from flexquant.engine.memory.arena import Arena
from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.pace import Pace
from flexquant.engine.residency import Block, Residency, Step

log = logging.getLogger(__name__)


class PreparedStep(Protocol):
    """A step that was read and can be published."""

    @property
    def step(self) -> Step:
        """Which."""
        ...


Prepared = TypeVar("Prepared", bound=PreparedStep)


class Arenas(Protocol[Prepared]):
    """What a swapper moves: `ArenaSet` in the host's memory, or its like on a card.

    `prepare` runs on the loader thread, and `discard` there or under the swapper's lock; the rest on the engine thread.
    """

    def resident(self, arena: int) -> tuple[Block, Any]:
        """What an arena of the plan holds, and its memory."""
        ...

    def prepare(self, step: Step) -> Prepared:
        """Read what a step needs while the old blocks answer. A failure leaves everything as it was."""
        ...

    def discard(self, prepared: Prepared) -> None:
        """Give up a step that was prepared and never published."""
        ...

    def publish(self, prepared: Prepared) -> None:
        """Put a step into use and give back what it retires."""
        ...

    def release(self) -> None:
        """Give everything back."""
        ...


class Swapper:
    """Owns the arenas of one model and its position.

    Args:
        residency: The plan to follow.
        read: Fills blocks; called on the loader thread, and on the caller's while this is constructed.
        position: Where to start; only its blocks are read.
        registry: Kept up to date with every module and every arena that is being filled.
        progress: Called with (bytes read, bytes in total) while the start position is loaded.
        clock: Monotonic seconds.
        pace: Told whether what `read` brings may take its time.
        make_arenas: Takes the memory; has the arguments of `ArenaSet`.

    Raises:
        MemoryError: No room for the start position.
        InputError: The start position cannot be read.
    """

    def __init__(
        self,
        residency: Residency,
        read: Read,
        *,
        position: int,
        registry: MemoryRegistry,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        clock: Callable[[], float] = time.monotonic,
        pace: Pace | None = None,
        make_arenas: Callable[..., Arenas[Any]] = ArenaSet,
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        """Called, mostly on the loader thread, when a step waits for a safe point."""
        self.on_published: Callable[[int], None] = lambda _position: None
        """Called on the engine thread with the new position after every step."""
        self._residency = residency
        self._clock = clock
        self._pace = Pace() if pace is None else pace
        self._arenas = make_arenas(residency, read, position=position, registry=registry, progress=progress)
        self._changed = threading.Condition()  # guards everything below
        self._position = position
        self._published = 0
        self._changed_at: dict[int, int] = {}
        self._target = position
        self._budget_s: float | None = None
        self._prepared: PreparedStep | None = None
        self._waiting: list[Future[int]] = []
        self._last_error: str | None = None
        self._closed = False
        self._loader = threading.Thread(target=self._run_loader, name="flexquant-loader", daemon=True)
        self._loader.start()

    @property
    def position(self) -> int:
        """The published position, 0 (best) to N (smallest)."""
        return self._position

    @property
    def target(self) -> int:
        """Where the position is going; equal to `position` when nothing moves."""
        return self._target

    @property
    def last_error(self) -> str | None:
        """Why the latest move failed; None after a move that succeeded."""
        return self._last_error

    @property
    def published(self) -> int:
        """Steps published so far; what `resident` answers changes with it. Engine thread only."""
        return self._published

    def changed_at(self, arena: int) -> int:
        """What `published` was after the last step that changed an arena; 0 before the first. Engine thread only."""
        return self._changed_at.get(arena, 0)

    def resident(self, arena: int) -> tuple[Block, Arena | None]:
        """What an arena holds, and the arena, None where that is nothing. Engine thread only; both change at safe
        points.
        """
        return self._arenas.resident(arena)

    def move_to(self, position: int, *, budget_s: float | None = None) -> Future[int]:
        """Order a move; any thread. A later order supersedes this one.

        Args:
            position: Where to go.
            budget_s: Seconds that the engine thread may wait at one safe point for further steps; None for no limit.
                With a limit, reading what a growing step needs lets computing go first.

        Returns:
            A future with the position that was reached: `position`, or, when superseded, the position at that moment.
            It fails with SwapError if a step could not be loaded, ClosedError if the model is closed meanwhile.

        Raises:
            ValueError: `position` is outside 0..N.
            ClosedError: The model is closed.
        """
        if not 0 <= position <= self._residency.max_position:
            raise ValueError(f"position {position} is outside 0..{self._residency.max_position}")
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()  # a waiter that goes away does not stop the move
        superseded: list[Future[int]] = []
        with self._changed:
            if self._closed:
                raise ClosedError("the model is closed")
            if position != self._target:
                superseded, self._waiting = self._waiting, []
            self._target = position
            self._budget_s = budget_s
            self._waiting.append(future)
            if self._prepared and not self._leads_to_target(self._prepared.step):
                self._arenas.discard(self._prepared)
                self._prepared = None
            if not self._has_time(position < self._position):
                self._pace.hurry()
            reached = self._position
            settled = self._take_settled()
            waits = self._waits_for_nothing()
            self._changed.notify_all()
        _resolve(superseded, reached)
        _resolve(settled, reached)
        if waits:
            self.on_ready()
        return future

    def safe_point(self) -> None:
        """Publish what is ready and wait for more within the move's budget. Engine thread only, between uses of arenas.

        Raises:
            RuntimeError: A tensor view of an arena that is about to change is alive.
        """
        if self._position == self._target:  # the common case takes no lock; a move missed here is seen next time
            return
        started, first = self._clock(), True
        while True:
            with self._changed:
                prepared = self._await_prepared(started, first=first)
                if prepared is None:
                    waits = self._waits_for_nothing()
                    break
                first = False
                self._arenas.publish(prepared)
                self._prepared = None
                self._published += 1
                self._changed_at.update((change.arena, self._published) for change in prepared.step.changes)
                reached = self._position = prepared.step.end
                if reached == self._target:
                    self._last_error = None
                settled = self._take_settled()
                self._changed.notify_all()
            self.on_published(reached)
            _resolve(settled, reached)
        if waits:
            self.on_ready()  # an engine thread that has nothing else to do comes again

    def close(self) -> None:
        """Stop the loader and unmap everything. Engine thread, or after it ended; closing twice is allowed."""
        with self._changed:
            self._closed = True
            self._pace.hurry()
            waiting, self._waiting = self._waiting, []
            self._target = self._position
            self._changed.notify_all()
        self._loader.join()
        if self._prepared is not None:
            self._arenas.discard(self._prepared)
            self._prepared = None
        _fail(waiting, ClosedError("the model was closed during the move"))
        self._arenas.release()

    def _await_prepared(self, started: float, *, first: bool) -> PreparedStep | None:
        """Wait for a prepared step; None when there is none to come, or none within the budget.

        The `first` one of a safe point that need not be waited for is within any budget.
        """
        while self._prepared is None:
            step = self._next_step()
            if step is None:
                return None
            remaining = None if self._budget_s is None else started + self._budget_s - self._clock()
            if not step.reads and (first or remaining is None or remaining > 0):
                return self._prepare(step)
            if remaining is not None and remaining <= 0:
                return None
            self._changed.wait(remaining)
        return self._prepared

    def _next_step(self) -> Step | None:
        """The step toward the target; None at the target."""
        if self._position == self._target:
            return None
        return self._residency.step(self._position, self._position + (1 if self._target > self._position else -1))

    def _waits_for_nothing(self) -> bool:
        """Whether the next step could be published without reading anything."""
        step = None if self._prepared is not None or self._closed else self._next_step()
        return step is not None and not step.reads

    def _has_time(self, grows: bool) -> bool:
        """Whether a move is one that nobody waits for."""
        return grows and self._budget_s is not None

    def _prepare(self, step: Step) -> PreparedStep:
        prepared: PreparedStep = self._arenas.prepare(step)
        return prepared

    def _take_settled(self) -> list[Future[int]]:
        """The futures to resolve if the target is reached."""
        if self._position != self._target:
            return []
        settled, self._waiting = self._waiting, []
        return settled

    def _leads_to_target(self, step: Step) -> bool:
        if self._closed or self._position == self._target:
            return False
        return step.start == self._position and step.shrinks == (self._target > self._position)

    # --- loader thread

    def _run_loader(self) -> None:
        while True:
            with self._changed:
                while True:
                    step = self._next_step()
                    if self._closed or (step is not None and step.reads and self._prepared is None):
                        break
                    self._changed.wait()
                if self._closed or step is None:
                    return
                if self._has_time(not step.shrinks):
                    self._pace.slow_down()
            try:
                prepared = self._prepare(step)
            except Exception as error:  # whatever it was, the model keeps serving where it is
                self._give_up(step, error)
                continue
            finally:
                self._pace.hurry()
            with self._changed:
                if not self._leads_to_target(step):
                    self._arenas.discard(prepared)
                    continue
                self._prepared = prepared
                self._changed.notify_all()
            try:
                self.on_ready()
            except Exception:
                log.exception("waking the engine thread failed; the step waits for the next safe point")

    def _give_up(self, step: Step, error: Exception) -> None:
        """End the move where it is, unless it was superseded by one in the other direction meanwhile."""
        hint = error.hint if isinstance(error, FlexQuantError) else None
        reason = SwapError(f"the model stays at position {step.start}; position {step.end}: {error}", hint=hint)
        reason.__cause__ = error
        log.warning("%s", reason)
        with self._changed:
            if not self._leads_to_target(step):
                return
            self._target = self._position
            self._last_error = str(reason)
            failed, self._waiting = self._waiting, []
            self._changed.notify_all()
        _fail(failed, reason)


def _resolve(futures: Iterable[Future[int]], position: int) -> None:
    for future in futures:
        future.set_result(position)


def _fail(futures: Iterable[Future[int]], error: SwapError) -> None:
    for future in futures:
        future.set_exception(error)
