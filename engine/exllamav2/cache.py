"""Keys and values on the card: one piece of device memory per sequence, because exllamav2 reads them in one piece.

The books are those of `KVCache`: pages, reservations and prefixes. Only the memory is another. A sequence's lies in
one *region*, taken when the sequence is made and as long as its reservation; a page is a part of it. Of a region whose
sequence was released, the pages that are kept for later are moved together. A sequence that begins like an earlier one
gets a copy of that one's keys and values, which costs the card microseconds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.exllamav2.card import Card, CardMemory, Rows
from flexquant.engine.kv_cache import KVCache, KVPage, KVSequence, KVType, page_bytes, pages_for
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.prefix_cache import PAGE_TOKENS


class Region:
    """Device memory of one sequence: float16 [layers, 2, pages * PAGE_TOKENS, kv_heads, head_dim].

    It goes back to the driver with the last that holds it: its sequence, or a page of it.
    """

    def __init__(self, memory: CardMemory, pages: int, released: Callable[[int], None]) -> None:
        self.memory = memory
        self.pages = pages
        self.holders = 1
        self._released = released

    def let_go(self) -> None:
        """One holder less."""
        self.holders -= 1
        if self.holders == 0:
            nbytes = self.memory.nbytes
            self.memory.release()
            self._released(nbytes)


class RegionPage:
    """Implements `PageMemory` as a part of a region; its bytes can be read on the card alone."""

    def __init__(self, region: Region, number: int, nbytes: int) -> None:
        self.region = region
        self.number = number
        self._nbytes = nbytes
        region.holders += 1

    @property
    def mapped_bytes(self) -> int:
        """See `PageMemory`."""
        return self._nbytes

    @property
    def address(self) -> NoReturn:
        """A page on the card is no contiguous memory.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a page on the card has no address of its own")

    def array(self) -> npt.NDArray[np.uint8]:
        """A page on the card cannot be read from here.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a page on the card cannot be read from the host")

    def move(self, region: Region, number: int) -> None:
        """Be a part of another region, which has the contents already."""
        region.holders += 1
        self.region.let_go()
        self.region, self.number = region, number

    def release(self) -> None:
        """See `PageMemory`."""
        self.region.let_go()


class CardCache(KVCache):
    """A `KVCache` on a card.

    Args:
        config: The model's.
        pages: As of `KVCache`.
        dtype: float16, the only type that exllamav2's kernels read.
        card: Has the memory.
        kept: As of `KVCache`.
    """

    def __init__(self, config: ModelConfig, pages: int, dtype: KVType, *, card: Card, kept: int | None = None) -> None:
        if dtype is not np.float16:
            raise ValueError(f"keys and values on the card are np.float16, not {dtype!r}")
        super().__init__(config, pages, dtype, allocate=_no_page_alone, kept=kept)
        self._card = card
        self._regions: dict[KVSequence, Region] = {}
        self._region_bytes = 0
        self._growing: tuple[Region, int] | None = None
        self._planes = 2 * config.layers  # each [tokens, kv_heads, head_dim], keys and values in turn
        self._plane_bytes = page_bytes(config, dtype) // self._planes  # of one page

    @property
    def bytes_in_use(self) -> int:
        """Device memory of all sequences and of pages kept for later."""
        return self._region_bytes

    @property
    def promised_bytes(self) -> int:
        """Nothing: what a sequence may grow to is taken when it is made."""
        return 0

    def bytes_to_map(
        self,
        tokens: int,
        prompt: npt.ArrayLike = (),  # noqa: ARG002  # what is there already is copied
        *,
        usable: Callable[[KVPage], bool] = lambda _page: True,  # noqa: ARG002  # likewise
    ) -> int:
        """Bytes that a sequence, made by `sequence` with the same arguments, takes; nothing changes."""
        return pages_for(tokens) * self.page_bytes

    def region(self, sequence: KVSequence) -> Region:
        """Where a sequence's keys and values lie."""
        return self._regions[sequence]

    def sequence(
        self, tokens: int = 0, prompt: npt.ArrayLike = (), *, usable: Callable[[KVPage], bool] = lambda _page: True
    ) -> KVSequence:
        """See `KVCache`. The device memory for all `tokens` is taken here."""
        sequence = super().sequence(tokens, prompt, usable=usable)
        try:
            region = self._regions[sequence] = self._new_region(sequence.reserved_pages)
        except KVExhaustedError:
            super().release(sequence)
            raise
        self._copy(sequence.pages, region)
        for number, page in enumerate(sequence.pages):
            self._growing = region, number
            sequence.pages[number] = KVPage(self._new_memory(), positions=page.positions)
            self._let_go(page)
        return sequence

    def reserve(self, sequence: KVSequence, tokens: int) -> None:
        """See `KVCache`.

        Raises:
            ValueError: The sequence has its memory already, and it is too short.
        """
        if sequence in self._regions and tokens > sequence.reserved_tokens:
            raise ValueError("a reservation on the card cannot be extended")
        super().reserve(sequence, tokens)

    def grow(self, sequence: KVSequence, tokens: int) -> None:
        """See `KVCache`. The memory is there already."""
        self._growing = self._regions[sequence], len(sequence.pages)
        super().grow(sequence, tokens)

    def release(self, sequence: KVSequence) -> None:
        """See `KVCache`."""
        region = self._regions.pop(sequence, None)
        kept = [page for page in sequence.pages if page.users > 1]
        super().release(sequence)
        if region is None:
            return
        if kept and len(kept) < region.pages:
            self._move_together(kept)
        region.let_go()

    def _new_memory(self) -> RegionPage:
        """The next page of the region that is being filled."""
        assert self._growing is not None, "pages are made by `sequence` and `grow`"
        region, number = self._growing
        self._growing = region, number + 1
        self._mapped += self.page_bytes
        return RegionPage(region, number, self.page_bytes)

    def _move_together(self, kept: list[KVPage]) -> None:
        """Put pages of a region that is longer into one that they fill; where the card has no room, they stay."""
        try:
            region = self._new_region(len(kept))
        except KVExhaustedError:
            return
        self._copy(kept, region)
        for number, page in enumerate(kept):
            _memory_of(page).move(region, number)
        region.let_go()  # the pages hold it now

    def _new_region(self, pages: int) -> Region:
        pages = max(pages, 1)
        nbytes = pages * self.page_bytes
        try:
            memory = self._card.allocate(nbytes)
        except MemoryError as error:
            raise KVExhaustedError(
                f"the card has no memory for the keys and values of {pages * PAGE_TOKENS} tokens ({nbytes} bytes)",
                hint="Free some device memory and try again.",
            ) from error
        self._region_bytes += nbytes
        return Region(memory, pages, self._gone)

    def _gone(self, nbytes: int) -> None:
        self._region_bytes -= nbytes

    def _copy(self, pages: Sequence[KVPage], target: Region) -> None:
        """Copy pages to the beginning of a region: pages that lie behind each other at once."""
        plane = self._plane_bytes
        number = 0
        while number < len(pages):
            first = _memory_of(pages[number])
            count = 1
            for page in pages[number + 1 :]:
                following = _memory_of(page)
                if following.region is not first.region or following.number != first.number + count:
                    break
                count += 1
            self._card.copy(
                Rows(first.region.memory, first.number * plane, first.region.pages * plane),
                Rows(target.memory, number * plane, target.pages * plane),
                count=self._planes,
                nbytes=count * plane,
            )
            number += count


def _memory_of(page: KVPage) -> RegionPage:
    return cast("RegionPage", page.memory)


def _no_page_alone(_nbytes: int) -> Any:
    raise TypeError("pages on the card are parts of regions")
