"""Moves a model along its sequence: reads ahead on a thread of its own, changes arenas at safe points.

Two threads meet here. The *loader* prepares the next step, never more than one ahead: a shrinking step is read into
the spare, which was faulted in at the start, so shrinking allocates nothing; a growing step gets new arenas. The
*engine thread* publishes a prepared step at a safe point, when no tensor view of an arena is alive, and unmaps what
the step retired. A step that cannot be loaded leaves the position where it was.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from flexquant.engine.errors import FlexQuantError, SwapError
from flexquant.engine.memory.arena import Arena
from flexquant.engine.memory.registry import MemoryRegistry, ModuleBytes
from flexquant.engine.residency import Block, Residency, Step

log = logging.getLogger(__name__)

Read = Callable[[Block, memoryview], None]
"""Fills a buffer of at least `block.length` bytes with the block's tensors; may take long; raises on failure."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A step that was read and waits for a safe point."""

    step: Step
    arenas: tuple[Arena, ...]
    """New arenas, one per change, of a growing step; the spare, where a shrinking step waits."""


class Swapper:
    """Owns the arenas of one model and its position.

    Args:
        residency: The plan to follow.
        read: Fills blocks; called on the loader thread, and on the caller's while this is constructed.
        position: Where to start; only its blocks are read.
        registry: Kept up to date with every module and every arena that is being filled.
        progress: Called with (bytes read, bytes in total) while the start position is loaded.
        clock: Monotonic seconds.

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
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        """Called on the loader thread when a step waits for a safe point."""
        self.on_published: Callable[[int], None] = lambda _position: None
        """Called on the engine thread with the new position after every step."""
        self._residency = residency
        self._read = read
        self._registry = registry
        self._clock = clock
        # Guards everything below; the arenas' contents belong to the engine thread, the spare's to the loader.
        self._changed = threading.Condition()
        self._position = position
        self._target = position
        self._budget_s: float | None = None
        self._prepared: _Prepared | None = None
        self._waiting: list[Future[int]] = []
        self._last_error: str | None = None
        self._closed = False
        self._arenas: list[Arena] = []
        self._blocks = residency.blocks(position)
        self._spare: Arena | None = None
        try:
            self._load(progress)
        except BaseException as error:
            _forget_locals(error)
            self._release()
            raise
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

    def arena(self, bundle: int) -> Arena:
        """The arena of a bundle. Engine thread only; the arena changes at safe points."""
        return self._arenas[bundle]

    def block(self, bundle: int) -> Block:
        """What a bundle's arena holds. Engine thread only."""
        return self._blocks[bundle]

    def move_to(self, position: int, *, budget_s: float | None = None) -> Future[int]:
        """Order a move; any thread. A later order supersedes this one.

        Args:
            position: Where to go.
            budget_s: Seconds that the engine thread may wait at one safe point for further steps; None for no limit.

        Returns:
            A future with the position that was reached: `position`, or, when superseded, the position at that moment.
            It fails with SwapError if a step could not be loaded.

        Raises:
            ValueError: `position` is outside 0..N.
            SwapError: The model is closed.
        """
        if not 0 <= position <= self._residency.max_position:
            raise ValueError(f"position {position} is outside 0..{self._residency.max_position}")
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()  # a waiter that goes away does not stop the move
        superseded: list[Future[int]] = []
        with self._changed:
            if self._closed:
                raise SwapError("the model is closed")
            if position != self._target:
                superseded, self._waiting = self._waiting, []
            self._target = position
            self._budget_s = budget_s
            self._waiting.append(future)
            if self._prepared and not self._leads_to_target(self._prepared.step):
                self._discard(self._prepared)
                self._prepared = None
            reached = self._position
            settled = self._take_settled()
            self._changed.notify_all()
        _resolve(superseded, reached)
        _resolve(settled, reached)
        return future

    def safe_point(self) -> None:
        """Publish what is ready and wait for more within the move's budget. Engine thread only, between uses of arenas.

        Raises:
            RuntimeError: A tensor view of an arena that is about to change is alive.
        """
        if self._position == self._target:  # the common case takes no lock; a move missed here is seen next time
            return
        started = self._clock()
        while True:
            with self._changed:
                prepared = self._await_prepared(started)
                if prepared is None:
                    return
                self._publish(prepared)
                reached = self._position
                settled = self._take_settled()
                self._changed.notify_all()
            self.on_published(reached)
            _resolve(settled, reached)

    def close(self) -> None:
        """Stop the loader and unmap everything. Engine thread, or after it ended; closing twice is allowed."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._target = self._position
            self._changed.notify_all()
        self._loader.join()
        _fail(waiting, SwapError("the model was closed during the move"))
        self._release()

    # --- engine thread

    def _await_prepared(self, started: float) -> _Prepared | None:
        """Wait for a prepared step; None when there is none to come, or none within the budget."""
        while self._prepared is None:
            if self._position == self._target:
                return None
            remaining = None if self._budget_s is None else started + self._budget_s - self._clock()
            if remaining is not None and remaining <= 0:
                return None
            self._changed.wait(remaining)
        return self._prepared

    def _publish(self, prepared: _Prepared) -> None:
        """Put a step into use and unmap what it retires."""
        step = prepared.step
        if any(self._arenas[change.bundle].viewed for change in step.changes):
            raise RuntimeError("a view of an arena is alive at a safe point")
        if not step.shrinks:
            for change, arena in zip(step.changes, prepared.arenas, strict=True):
                self._arenas[change.bundle].release()
                self._arenas[change.bundle] = arena
            self._registry.add_loading(-sum(arena.mapped_bytes for arena in prepared.arenas))
        elif self._residency.rotates(step):
            (change,), (spare,) = step.changes, prepared.arenas
            self._spare, self._arenas[change.bundle] = self._arenas[change.bundle], spare
            spare.trim(change.new.mapped)
            self._spare.trim(self._residency.spare_bytes)
        else:
            (spare,) = prepared.arenas
            for change in step.changes:
                arena = self._arenas[change.bundle]
                _copy(spare, change.spare_offset, arena, change.new.length)
                arena.trim(change.new.mapped)
        for change in step.changes:
            self._blocks[change.bundle] = change.new
            self._registry.publish(module_bytes(change.new))
        self._prepared = None
        self._position = step.end
        if self._position == self._target:
            self._last_error = None

    def _take_settled(self) -> list[Future[int]]:
        """The futures to resolve if the target is reached."""
        if self._position != self._target:
            return []
        settled, self._waiting = self._waiting, []
        return settled

    # --- loader thread

    def _run_loader(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (self._position == self._target or self._prepared is not None):
                    self._changed.wait()
                if self._closed:
                    return
                toward = 1 if self._target > self._position else -1
                step = self._residency.step(self._position, self._position + toward)
            try:
                prepared = self._prepare(step)
            except Exception as error:  # whatever it was, the model keeps serving where it is
                self._give_up(step, error)
                continue
            with self._changed:
                if not self._leads_to_target(step):
                    self._discard(prepared)
                    continue
                self._prepared = prepared
                self._changed.notify_all()
            try:
                self.on_ready()
            except Exception:
                log.exception("waking the engine thread failed; the step waits for the next safe point")

    def _prepare(self, step: Step) -> _Prepared:
        """Read the blocks of a step, into the spare or into new arenas."""
        if step.shrinks:
            assert self._spare is not None, "a plan with steps has a spare"
            for change in step.changes:
                self._read(change.new, self._spare.memory()[change.spare_offset :][: change.new.length])
            return _Prepared(step, (self._spare,))
        arenas: list[Arena] = []
        try:
            for change in step.changes:
                arenas.append(self._new_arena(change.new.length))
                self._read(change.new, arenas[-1].memory()[: change.new.length])
        except BaseException as error:
            _forget_locals(error)
            self._discard(_Prepared(step, tuple(arenas)))
            raise
        return _Prepared(step, tuple(arenas))

    def _new_arena(self, nbytes: int) -> Arena:
        arena = Arena(nbytes)
        arena.prefault()  # reading into memory that is not there yet costs more than touching it first
        self._registry.add_loading(arena.mapped_bytes)
        return arena

    def _give_up(self, step: Step, error: Exception) -> None:
        """End the move where it is, unless it was superseded by one in the other direction meanwhile."""
        hint = error.hint if isinstance(error, FlexQuantError) else None
        reason = SwapError(f"the model stays at position {step.start}; position {step.end}: {error}", hint=hint)
        _forget_locals(error)
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

    # --- both

    def _leads_to_target(self, step: Step) -> bool:
        if self._closed or self._position == self._target:
            return False
        return step.start == self._position and step.shrinks == (self._target > self._position)

    def _discard(self, prepared: _Prepared) -> None:
        """Give back the arenas of a step that was never published, so nobody has a view of them."""
        if prepared.step.shrinks:
            return  # it waits in the spare, which stays
        for arena in prepared.arenas:
            self._registry.add_loading(-arena.mapped_bytes)
            arena.release()

    def _load(self, progress: Callable[[int, int], None]) -> None:
        total = sum(block.payload for block in self._blocks)
        done = 0
        if self._residency.spare_bytes:
            self._spare = Arena(self._residency.spare_bytes)
            self._spare.prefault()
        for block in self._blocks:
            self._arenas.append(Arena(block.length))
            self._arenas[-1].prefault()
            self._read(block, self._arenas[-1].memory()[: block.length])
            self._registry.publish(module_bytes(block))
            done += block.payload
            progress(done, total)

    def _release(self) -> None:
        if self._prepared is not None:
            self._discard(self._prepared)
            self._prepared = None
        for arena in self._arenas:
            arena.release()
        self._arenas.clear()
        if self._spare is not None:
            self._spare.release()
            self._spare = None


def module_bytes(block: Block) -> Mapping[str, ModuleBytes]:
    """The registry's entries of a resident block; the rest of the last page belongs to the last module."""
    entries = {place.module: ModuleBytes(place.size.payload, place.size.span) for place in block.placed}
    last = block.placed[-1]
    entries[last.module] = ModuleBytes(last.size.payload, block.mapped - last.offset)
    return entries


def _copy(source: Arena, offset: int, target: Arena, nbytes: int) -> None:
    """Copy into the head of `target`; through torch, which releases the GIL and copies with all threads."""
    target.tensor()[:nbytes].copy_(source.tensor()[offset : offset + nbytes])


def _forget_locals(error: BaseException) -> None:
    """Clear the local variables in an error's tracebacks: they hold views of arenas that are about to be unmapped."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def _resolve(futures: Iterable[Future[int]], position: int) -> None:
    for future in futures:
        future.set_result(position)


def _fail(futures: Iterable[Future[int]], error: SwapError) -> None:
    for future in futures:
        future.set_exception(error)
