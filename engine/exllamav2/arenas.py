"""The weights of one model in device memory: one piece per bundle, taken from the driver and given back to it.

The counterpart of `arena_set.py`. A block is read into page-locked host memory and copied to new device memory while
the old one still answers; publishing gives exllamav2 the new one, waits for the card and gives the old one back. So a
step takes, for as long as it lasts, the device memory of its new blocks beside that of its old ones, up or down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flexquant.engine.arena_set import Read
from flexquant.engine.exllamav2.card import Card, CardMemory, Kernels
from flexquant.engine.exllamav2.form import Form
from flexquant.engine.exllamav2.handles import Handles, Placed
from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.residency import Block, Residency, Step, module_bytes


@dataclass(frozen=True, slots=True)
class PreparedOnCard:
    """A step whose blocks were uploaded and can be published."""

    step: Step
    memories: list[CardMemory]
    """One per change."""


class CardArenas:
    """Implements `Arenas` of `swap.py`; see there for who calls what on which thread.

    Args:
        residency: The plan to follow.
        read: Fills host memory with a block.
        position: Whose blocks to load first.
        registry: Kept up to date with every module and every block that is being uploaded.
        progress: Called with (bytes read, bytes in total) while the first blocks are loaded.
        card: Has the memory.
        handles: Put weights into use.
        forms: By module and variant, how it lies in a block.
        linears: By module, the key of its linear layer.
        keep_copies: Keep page-locked host copies of all blocks that were read, so that a step back reads no file.
        kernels: Closed with the arenas.

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
        card: Card,
        handles: Handles,
        forms: Mapping[tuple[str, int], Form],
        linears: Mapping[str, str],
        keep_copies: bool,
        kernels: Kernels,
    ) -> None:
        self._read = read
        self._registry = registry
        self._card = card
        self._handles = handles
        self._kernels = kernels
        self._forms = forms
        self._linears = linears
        self._copies: dict[Block, memoryview] | None = {} if keep_copies else None
        self._staging: memoryview | None = None
        self._blocks = residency.blocks(position)
        self._memories: list[CardMemory] = []
        try:
            self._load(progress)
        except BaseException:
            self.release()
            raise

    @property
    def bundles(self) -> int:
        """How many there are."""
        return len(self._blocks)

    def resident(self, bundle: int) -> tuple[Block, CardMemory]:
        """What a bundle's memory holds, and the memory. Both change when a step is published."""
        return self._blocks[bundle], self._memories[bundle]

    def prepare(self, step: Step) -> PreparedOnCard:
        """Upload the blocks of a step. A failure leaves everything as it was.

        Raises:
            MemoryError: No room for the new blocks.
            InputError: A block cannot be read.
        """
        prepared = PreparedOnCard(step, [])
        try:
            for change in step.changes:
                prepared.memories.append(self._card.allocate(change.new.length))
                self._registry.add_loading(change.new.mapped)
                self._upload(change.new, prepared.memories[-1])
        except BaseException:
            self.discard(prepared)
            raise
        return prepared

    def discard(self, prepared: PreparedOnCard) -> None:
        """Give up a step that was prepared and never published."""
        for change, memory in zip(prepared.step.changes, prepared.memories, strict=False):
            self._registry.add_loading(-change.new.mapped)
            memory.release()

    def publish(self, prepared: PreparedOnCard) -> None:
        """Put a step into use and give back what it retires."""
        changes = prepared.step.changes
        new: dict[str, Placed] = {}
        for change, memory in zip(changes, prepared.memories, strict=True):
            new |= self._placed(change.new, memory)
        self._handles.exchange(new)
        for change, memory in zip(changes, prepared.memories, strict=True):
            self._memories[change.arena].release()
            self._memories[change.arena] = memory
            self._blocks[change.arena] = change.new
            self._registry.publish(module_bytes(change.new), loaded=change.new.mapped)

    def release(self) -> None:
        """Give everything back; the arenas cannot be used again. Releasing twice is allowed."""
        self._handles.release()
        self._kernels.close()
        for memory in self._memories:
            memory.release()
        self._memories.clear()
        self._staging = None
        if self._copies is not None:
            self._copies.clear()

    def _load(self, progress: Callable[[int, int], None]) -> None:
        total = sum(block.payload for block in self._blocks)
        done = 0
        new: dict[str, Placed] = {}
        for block in self._blocks:
            memory = self._card.allocate(block.length)
            self._memories.append(memory)
            self._upload(block, memory)
            new |= self._placed(block, memory)
            self._registry.publish(module_bytes(block))
            done += block.payload
            progress(done, total)
        self._handles.exchange(new)

    def _placed(self, block: Block, memory: CardMemory) -> dict[str, Placed]:
        """The modules of a block, by the keys of their linear layers."""
        return {
            self._linears[place.module]: Placed(self._forms[place.module, place.variant], memory, place.offset)
            for place in block.placed
        }

    def _upload(self, block: Block, memory: CardMemory) -> None:
        if self._copies is None:
            if self._staging is None or len(self._staging) < block.length:
                self._staging = None  # before the larger one is taken
                self._staging = self._card.staging(block.length)
            source = self._staging[: block.length]
            self._read(block, source)
        else:
            if block not in self._copies:
                copy = self._card.staging(block.length)
                self._read(block, copy)
                self._copies[block] = copy
            source = self._copies[block]
        self._card.upload(source, memory)
