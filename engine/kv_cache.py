"""Keys and values of past tokens, in pages that are mapped when a sequence grows and unmapped when it ends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.memory.arena import Arena
from flexquant.engine.model_config import ModelConfig

PAGE_TOKENS: Final = 64


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

    def tensor(self) -> Tensor:
        """All bytes as uint8 [mapped_bytes], a view that must die before `release`."""
        ...

    def release(self) -> None:
        """Give the memory back."""
        ...


@dataclass(eq=False, slots=True)
class KVSequence:
    """One sequence of tokens in the cache; made by `KVCache.sequence`, changed by the cache and the decoder only."""

    length: int = 0
    """Tokens whose keys and values are in the pages."""
    reserved_pages: int = 0
    """Pages that the sequence may take without asking again."""
    pages: list[PageMemory] = field(default_factory=list)
    """The block table: page i holds the tokens from i * PAGE_TOKENS on."""

    @property
    def reserved_tokens(self) -> int:
        """Tokens that the reservation holds."""
        return self.reserved_pages * PAGE_TOKENS


class KVCache:
    """Pages of `PAGE_TOKENS` tokens, each with the keys and values of all layers.

    A reservation is a promise and takes no memory: pages are mapped when the sequence grows into them. Pages of a
    released sequence are given back at once. One thread uses the cache; it has no lock.

    Args:
        config: The model's.
        pages: Most pages that all sequences together may reserve.
        dtype: float16 or float32.
        allocate: Makes the memory of a page from its size in bytes; raises MemoryError if there is none.
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        dtype: torch.dtype = torch.float16,
        allocate: Callable[[int], PageMemory] = Arena,
    ) -> None:
        if dtype not in (torch.float16, torch.float32):
            raise ValueError(f"the KV cache holds float16 or float32, not {dtype}")
        self.config = config
        self.dtype = dtype
        self.pages = pages
        self.page_bytes = page_bytes(config, dtype)
        self._allocate = allocate
        self._reserved = 0
        self._mapped = 0

    @property
    def free_pages(self) -> int:
        """Pages that can still be reserved."""
        return self.pages - self._reserved

    @property
    def bytes_in_use(self) -> int:
        """Bytes mapped by the pages of all sequences."""
        return self._mapped

    def sequence(self) -> KVSequence:
        """Return an empty sequence without a reservation."""
        return KVSequence()

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
        sequence.reserved_pages += more
        self._reserved += more

    def grow(self, sequence: KVSequence, tokens: int) -> None:
        """Map the pages that `tokens` tokens in all need.

        Raises:
            ValueError: `tokens` exceeds the reservation.
            KVExhaustedError: The system has no memory for a page; the sequence keeps those that it has.
        """
        if tokens > sequence.reserved_tokens:
            raise ValueError(f"{tokens} tokens exceed the sequence's reservation of {sequence.reserved_tokens}")
        while len(sequence.pages) < pages_for(tokens):
            try:
                memory = self._allocate(self.page_bytes)
            except MemoryError as error:
                raise KVExhaustedError(
                    f"the system has no memory for another KV page of {self.page_bytes} bytes",
                    hint="Free some memory and try again.",
                ) from error
            self._mapped += memory.mapped_bytes
            sequence.pages.append(memory)

    def release(self, sequence: KVSequence) -> None:
        """Give back all pages and the reservation; the sequence is empty afterwards."""
        self._reserved -= sequence.reserved_pages
        sequence.reserved_pages = sequence.length = 0
        while sequence.pages:
            memory = sequence.pages.pop()
            self._mapped -= memory.mapped_bytes
            memory.release()

    def view(self, page: PageMemory) -> tuple[Tensor, Tensor]:
        """Return a page's keys and values: each [layers, kv_heads, PAGE_TOKENS, head_dim].

        In memory a page is [layers, 2 (keys, values), kv_heads], then keys as [head_dim, PAGE_TOKENS] and values as
        [PAGE_TOKENS, head_dim]: products with either run along memory. The views must die before the sequence is
        released.
        """
        layers, kv_heads, head_dim = self.config.layers, self.config.kv_heads, self.config.head_dim
        whole = page.tensor()[: self.page_bytes].view(self.dtype).view(layers, 2, kv_heads, -1)
        keys = whole[:, 0].view(layers, kv_heads, head_dim, PAGE_TOKENS).transpose(-1, -2)
        return keys, whole[:, 1].view(layers, kv_heads, PAGE_TOKENS, head_dim)


def pages_for(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_TOKENS)


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page."""
    return config.layers * 2 * config.kv_heads * PAGE_TOKENS * config.head_dim * dtype.itemsize
