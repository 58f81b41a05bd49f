"""Keys and values of past tokens, in pages that sequences share, and that are unmapped when nobody needs them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.memory.arena import Arena, page_rounded
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.prefix_cache import PAGE_TOKENS, PrefixCache

KVType = type[np.float16] | type[np.float32]


class PageMemory(Protocol):
    """Memory of one page; `Arena` is the one that really goes back to the system."""

    @property
    def mapped_bytes(self) -> int:
        """Bytes held now."""
        ...

    @property
    def address(self) -> int:
        """Where the memory begins."""
        ...

    def array(self) -> npt.NDArray[np.uint8]:
        """All bytes as uint8 [mapped_bytes], a view that must die before `release`."""
        ...

    def release(self) -> None:
        """Give the memory back."""
        ...


@dataclass(eq=False, slots=True)
class KVPage:
    """Keys and values of up to PAGE_TOKENS tokens in all layers."""

    memory: PageMemory
    users: int = 1
    """Sequences that have it in their block table, and the prefix cache. A page with several is full and final."""
    kept: bool = False
    """Whether the prefix cache is one of the users."""
    positions: tuple[int, int] | None = None
    """Best and worst position of the model at which its tokens were computed, and those before them, whose keys and
    values are in them, too; None before the first."""

    @property
    def reusable(self) -> bool:
        """Whether it is only kept for later sequences."""
        return self.kept and self.users == 1

    def note(self, best: int, worst: int) -> None:
        """Tokens were computed between these positions."""
        if self.positions is not None:
            best, worst = min(best, self.positions[0]), max(worst, self.positions[1])
        self.positions = best, worst


@dataclass(eq=False, slots=True)
class KVSequence:
    """One sequence of tokens in the cache; made by `KVCache.sequence`, changed by the cache and the decoder only."""

    length: int = 0
    """Tokens whose keys and values are in the pages."""
    reserved_pages: int = 0
    """Pages that the sequence may have in all without asking again."""
    cached_tokens: int = 0
    """Tokens that were there from the start, computed for an earlier sequence."""
    pages: list[KVPage] = field(default_factory=list)
    """The block table: page i holds the tokens from i * PAGE_TOKENS on."""

    @property
    def reserved_tokens(self) -> int:
        """Tokens that the reservation holds."""
        return self.reserved_pages * PAGE_TOKENS

    @property
    def promised_pages(self) -> int:
        """Pages that the reservation still allows to be mapped."""
        return max(self.reserved_pages - len(self.pages), 0)


class KVCache:
    """Pages of `PAGE_TOKENS` tokens, each with the keys and values of all layers.

    A reservation is a promise and takes no memory: pages are mapped when the sequence grows into them. Pages of a
    released sequence are given back at once, except for those that `keep` put into the prefix cache; these go when
    a reservation needs their place, the one that was not used for longest first. One thread uses the cache; it has no
    lock. The counters alone may be read from any thread: they are whole numbers that are right after every call.

    Args:
        config: The model's.
        pages: Most pages: reserved by all sequences and kept for later ones together.
        kept: Most pages that are kept for later ones; as many as there are without.
        dtype: float16 or float32.
        allocate: Makes the memory of a page from its size in bytes; raises MemoryError if there is none.
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        dtype: KVType = np.float16,
        allocate: Callable[[int], PageMemory] = Arena,
        *,
        kept: int | None = None,
    ) -> None:
        if dtype is not np.float16 and dtype is not np.float32:  # the kernels would write past the pages
            raise ValueError(f"the KV cache holds np.float16 or np.float32, not {dtype!r}")
        self.config = config
        self.dtype = dtype
        self.pages = pages
        self._most_kept = pages if kept is None else kept
        self.page_bytes = page_bytes(config, dtype)
        self._allocate = allocate
        self._mapped_page_bytes = page_rounded(self.page_bytes)
        self._reserved = 0
        self._promised = 0
        self._reusable = 0
        self._mapped = 0
        self._prefixes: PrefixCache[KVPage] = PrefixCache()

    @property
    def free_pages(self) -> int:
        """Pages that can still be reserved; those that are only kept for later count as free."""
        return self.pages - self._reserved

    @property
    def bytes_in_use(self) -> int:
        """Bytes mapped by all pages."""
        return self._mapped

    @property
    def promised_bytes(self) -> int:
        """Bytes that sequences have reserved and may still map."""
        return self._promised * self._mapped_page_bytes

    @property
    def reusable_bytes(self) -> int:
        """Bytes of pages that no sequence has: what `drop_reusable` gives back."""
        return self._reusable * self._mapped_page_bytes

    def bytes_to_map(
        self, tokens: int, prompt: npt.ArrayLike = (), *, usable: Callable[[KVPage], bool] = lambda _page: True
    ) -> int:
        """Bytes that a sequence, made by `sequence` with the same arguments, could map; nothing changes."""
        pages = pages_for(tokens) - len(self._prefixes.find(prompt, usable))
        return max(pages, 0) * self._mapped_page_bytes

    def sequence(
        self, tokens: int = 0, prompt: npt.ArrayLike = (), *, usable: Callable[[KVPage], bool] = lambda _page: True
    ) -> KVSequence:
        """Make a sequence that can grow to `tokens` tokens in all.

        Args:
            tokens: To reserve.
            prompt: Token ids that the sequence will begin with; of these, as many as are kept from earlier sequences
                are there already.
            usable: Whether a kept page is good enough; the pages behind one that is not are no use either.

        Raises:
            KVExhaustedError: The pages are not free; nothing has changed.
        """
        sequence = KVSequence()
        for page in self._prefixes.match(prompt, usable):
            self._change(page, users=1)
            sequence.pages.append(page)
        sequence.length = sequence.cached_tokens = len(sequence.pages) * PAGE_TOKENS
        try:
            self.reserve(sequence, max(tokens, sequence.length))
        except KVExhaustedError:
            self.release(sequence)
            raise
        return sequence

    def reserve(self, sequence: KVSequence, tokens: int) -> None:
        """Make sure that the sequence can grow to `tokens` tokens in all. A reservation never shrinks.

        Raises:
            KVExhaustedError: The pages are not free; nothing has changed.
        """
        more = pages_for(tokens) - sequence.reserved_pages
        if more <= 0:
            return
        if more > self.free_pages:
            raise KVExhaustedError(
                f"{tokens} tokens need {more} more KV pages of {PAGE_TOKENS} tokens; "
                f"{self.free_pages} of {self.pages} are free",
                hint="Try again when other requests have ended, or ask for fewer tokens.",
            )
        promised = sequence.promised_pages
        sequence.reserved_pages += more
        self._reserved += more
        self._promised += sequence.promised_pages - promised
        self._make_room()

    def grow(self, sequence: KVSequence, tokens: int) -> None:
        """Map the pages that `tokens` tokens in all need.

        Raises:
            ValueError: `tokens` exceeds the reservation.
            KVExhaustedError: The system has no memory for a page; the sequence keeps those that it has.
        """
        if tokens > sequence.reserved_tokens:
            raise ValueError(f"{tokens} tokens exceed the sequence's reservation of {sequence.reserved_tokens}")
        while len(sequence.pages) < pages_for(tokens):
            sequence.pages.append(KVPage(self._new_memory()))
            self._promised -= 1

    def keep(self, sequence: KVSequence, tokens: npt.ArrayLike) -> None:
        """Keep the sequence's full pages for later sequences that begin with the same tokens.

        Args:
            sequence: Goes on as before.
            tokens: Its token ids from the start; pages beyond these, or beyond its length, are not kept.
        """
        ids = np.asarray(tokens)[: sequence.length]
        for page, replaced in self._prefixes.insert(ids, sequence.pages, _replaces):
            self._change(page, users=1, kept=True)
            if replaced is not None:
                self._let_go(replaced, kept=False)

    def drop_reusable(self) -> None:
        """Give back every page that no sequence has."""
        self._drop(self.pages)

    def release(self, sequence: KVSequence) -> None:
        """Give back the sequence's pages and its reservation; the sequence is empty afterwards."""
        self._reserved -= sequence.reserved_pages
        self._promised -= sequence.promised_pages
        sequence.reserved_pages = sequence.length = 0
        while sequence.pages:
            self._let_go(sequence.pages.pop())
        self._make_room()

    def view(self, page: KVPage) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a page's keys and values: each [layers, kv_heads, PAGE_TOKENS, head_dim].

        In memory a page is [layers, 2 (keys, values), kv_heads], then keys as [head_dim, PAGE_TOKENS] and values as
        [PAGE_TOKENS, head_dim]: products with either run along memory. The views must die before the sequence is
        released.
        """
        layers, kv_heads, head_dim = self.config.layers, self.config.kv_heads, self.config.head_dim
        whole = page.memory.array()[: self.page_bytes].view(self.dtype).reshape(layers, 2, kv_heads, -1)
        keys = whole[:, 0].reshape(layers, kv_heads, head_dim, PAGE_TOKENS).swapaxes(-1, -2)
        return keys, whole[:, 1].reshape(layers, kv_heads, PAGE_TOKENS, head_dim)

    def _new_memory(self) -> PageMemory:
        try:
            memory = self._allocate(self.page_bytes)
        except MemoryError as error:
            raise KVExhaustedError(
                f"the system has no memory for another KV page of {self.page_bytes} bytes",
                hint="Free some memory and try again.",
            ) from error
        self._mapped += memory.mapped_bytes
        return memory

    def _change(self, page: KVPage, *, users: int, kept: bool | None = None) -> None:
        """Add `users` to a page's, and count it where it belongs."""
        before = page.reusable
        page.users += users
        if kept is not None:
            page.kept = kept
        self._reusable += page.reusable - before

    def _let_go(self, page: KVPage, *, kept: bool | None = None) -> None:
        self._change(page, users=-1, kept=kept)
        if page.users == 0:
            self._mapped -= page.memory.mapped_bytes
            page.memory.release()

    def _make_room(self) -> None:
        """Hold what is reserved and what is kept within the limits. A shared page counts once per sequence."""
        self._drop(self._reusable - min(self._most_kept, self.pages - self._reserved))

    def _drop(self, count: int) -> None:
        """Give back up to `count` pages that no sequence has, the least recently used first."""
        if count > 0:
            for page in self._prefixes.evict(count, lambda page: page.reusable):
                self._let_go(page, kept=False)


def note_positions(sequence: KVSequence, start: int, best: int, worst: int) -> None:
    """Tokens from `start` on were computed between these positions: from what lay in the pages before."""
    first = start // PAGE_TOKENS
    before = sequence.pages[first - 1].positions if first > 0 else None
    for page in sequence.pages[first:]:
        page.note(best, worst)
        if before is not None:
            page.note(*before)


def _replaces(new: KVPage, kept: KVPage) -> bool:
    """Whether the kept page of the same tokens gives way: the latest positions are the ones that will be asked for."""
    return new.positions != kept.positions


def pages_for(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_TOKENS)


def page_bytes(config: ModelConfig, dtype: KVType) -> int:
    """Bytes of one page."""
    return config.layers * 2 * config.kv_heads * PAGE_TOKENS * config.head_dim * np.dtype(dtype).itemsize
