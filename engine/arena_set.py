"""The arenas of one model: filled, exchanged step by step, and given back. No threads; `swap.py` decides when.

A shrinking step is prepared in the spare, which was faulted in at the start, so shrinking allocates nothing. When it
is published, the new block changes places with the head of the old arena, whose tail is unmapped. A growing step is
prepared in new arenas, and publishing it unmaps the old ones. Where a block is empty, as of residuals that are not
there, there is no arena: leaving reads nothing and unmaps it whole.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from flexquant.engine.memory.arena import Arena
from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.residency import Block, Residency, Step, module_bytes

Read = Callable[[Block, memoryview], None]
"""Fills a buffer of `block.length` bytes with the block's tensors; may take long; raises on failure."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step that was read and can be published."""

    step: Step
    arenas: list[Arena | None]
    """New arenas, one per change, of a growing step; the spare, where a shrinking step waits."""


class ArenaSet:
    """The arenas of a plan, and the spare.

    `prepare` and `discard` may run on another thread than the rest, but not at the same time as `publish`, unless that
    publishes a step that reads nothing: such a one touches neither the spare nor new arenas.

    Args:
        residency: The plan to follow.
        read: Fills blocks.
        position: Whose blocks to load first.
        registry: Kept up to date with every module and every arena that is being filled.
        progress: Called with (bytes read, bytes in total) while the first blocks are loaded.

    Raises:
        MemoryError: No room for the first blocks.
        InputError: They cannot be read.
    """

    def __init__(
        self,
        residency: Residency,
        read: Read,
        *,
        position: int,
        registry: MemoryRegistry,
        progress: Callable[[int, int], None],
    ) -> None:
        self._read = read
        self._registry = registry
        self._blocks = residency.blocks(position)
        self._arenas: list[Arena | None] = []
        self._spare: Arena | None = None
        try:
            self._load(residency.spare_bytes, progress)
        except BaseException as error:
            _forget_locals(error)
            self.release()
            raise

    def resident(self, arena: int) -> tuple[Block, Arena | None]:
        """What an arena holds, and the arena, None where that is nothing. Both change when a step is published."""
        return self._blocks[arena], self._arenas[arena]

    def prepare(self, step: Step) -> Prepared:
        """Read the blocks of a step. A failure leaves everything as it was.

        Raises:
            MemoryError: No room for the new arenas of a growing step.
            InputError: A block cannot be read.
        """
        prepared = Prepared(step, [])
        try:
            if step.shrinks:
                prepared.arenas.append(self._spare)
                for change in step.changes:
                    if change.new.placed:
                        assert self._spare is not None, "a plan whose steps read something has a spare"
                        self._read(change.new, self._spare.memory()[change.spare_offset :][: change.new.length])
            else:
                for change in step.changes:
                    if not change.new.placed:
                        prepared.arenas.append(None)
                        continue
                    arena = Arena(change.new.length)
                    prepared.arenas.append(arena)
                    self._registry.add_loading(arena.mapped_bytes)  # before the memory is there: it takes its time
                    arena.prefault()
                    self._read(change.new, arena.memory()[: change.new.length])
        except BaseException as error:
            _forget_locals(error)
            self.discard(prepared)
            raise
        return prepared

    def discard(self, prepared: Prepared) -> None:
        """Give up a step that was prepared and never published."""
        if prepared.step.shrinks:
            return  # it waits in the spare, which stays
        for arena in prepared.arenas:
            if arena is not None:
                self._registry.add_loading(-arena.mapped_bytes)
                arena.release()

    def publish(self, prepared: Prepared) -> None:
        """Put a step into use and unmap what it retires.

        Raises:
            RuntimeError: A view of an arena that changes is alive; nothing has changed.
        """
        step = prepared.step
        old = [self._arenas[change.arena] for change in step.changes]
        if any(arena is not None and arena.viewed for arena in [*old, *prepared.arenas]):
            raise RuntimeError("a view of an arena is alive at a safe point")
        for number, (change, arena) in enumerate(zip(step.changes, old, strict=True)):
            loaded = 0
            if not step.shrinks:
                self._arenas[change.arena] = new = prepared.arenas[number]
                loaded = 0 if new is None else new.mapped_bytes
                if arena is not None:
                    arena.release()
            elif arena is not None and change.new.placed:
                (spare,) = prepared.arenas
                assert spare is not None, "it was read there"
                arena.take(spare, change.spare_offset, change.new.length)
                arena.trim(change.new.mapped)
            elif arena is not None:
                self._arenas[change.arena] = None
                arena.release()
            self._blocks[change.arena] = change.new
            entries = module_bytes(change.new)
            self._registry.publish(entries, retired=module_bytes(change.old).keys() - entries.keys(), loaded=loaded)

    def release(self) -> None:
        """Unmap everything; the set cannot be used again. Releasing twice is allowed."""
        for arena in self._arenas:
            if arena is not None:
                arena.release()
        self._arenas.clear()
        if self._spare is not None:
            self._spare.release()
            self._spare = None

    def _load(self, spare_bytes: int, progress: Callable[[int, int], None]) -> None:
        total = sum(block.payload for block in self._blocks)
        done = 0
        if spare_bytes:
            self._spare = _faulted_in(spare_bytes)
        for block in self._blocks:
            if not block.placed:
                self._arenas.append(None)
                continue
            self._arenas.append(arena := _faulted_in(block.length))
            self._read(block, arena.memory()[: block.length])
            self._registry.publish(module_bytes(block))
            done += block.payload
            progress(done, total)


def _faulted_in(nbytes: int) -> Arena:
    """A new arena, there: reading a file into memory that is not there yet takes longer than having it made first."""
    arena = Arena(nbytes)
    arena.prefault()
    return arena


def _forget_locals(error: BaseException) -> None:
    """Clear the local variables in an error's tracebacks: they hold views of arenas that are about to be unmapped."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
