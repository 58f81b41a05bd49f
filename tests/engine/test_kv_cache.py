import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.kv_cache import KVCache, KVSequence, page_bytes, pages_for
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.prefix_cache import PAGE_TOKENS
from support.page_ledger import Ledger
from support.tiny_model import tiny_config

CONFIG = tiny_config()


def test_a_page_holds_64_tokens_of_all_layers() -> None:
    cache = KVCache(CONFIG, pages=4)
    sequence = cache.sequence()
    cache.reserve(sequence, 1)
    cache.grow(sequence, 1)
    keys, values = cache.view(sequence.pages[0])
    assert keys.shape == values.shape == (CONFIG.layers, CONFIG.kv_heads, 64, CONFIG.head_dim)
    assert keys.dtype == values.dtype == np.float16
    assert cache.page_bytes == keys.nbytes + values.nbytes == page_bytes(CONFIG, np.float16)
    del keys, values
    cache.release(sequence)


def test_pages_come_as_a_sequence_grows_and_go_when_it_is_released() -> None:
    ledger = Ledger()
    cache = KVCache(CONFIG, pages=10, allocate=ledger.allocate)
    sequence = cache.sequence()
    cache.reserve(sequence, 200)
    assert (cache.free_pages, len(ledger.live), cache.bytes_in_use) == (6, 0, 0)
    cache.grow(sequence, 65)
    assert (len(sequence.pages), len(ledger.live)) == (2, 2)
    assert cache.bytes_in_use == 2 * cache.page_bytes
    cache.release(sequence)
    assert (cache.free_pages, len(ledger.live), cache.bytes_in_use) == (10, 0, 0)
    assert (sequence.length, sequence.pages) == (0, [])
    cache.release(sequence)
    assert cache.free_pages == 10


def test_a_reservation_beyond_the_pages_is_refused_and_changes_nothing() -> None:
    cache = KVCache(CONFIG, pages=3)
    first, second = cache.sequence(), cache.sequence()
    cache.reserve(first, 128)
    with pytest.raises(KVExhaustedError, match="1 of 3 are free"):
        cache.reserve(second, 65)
    assert (second.reserved_pages, cache.free_pages) == (0, 1)
    cache.reserve(second, 64)


def test_growing_beyond_the_reservation_is_refused() -> None:
    cache = KVCache(CONFIG, pages=3)
    sequence = cache.sequence()
    cache.reserve(sequence, 10)
    with pytest.raises(ValueError, match="reservation of 64"):
        cache.grow(sequence, 65)


def test_a_machine_without_memory_is_a_kv_error() -> None:
    ledger = Ledger(limit=2)
    cache = KVCache(CONFIG, pages=10, allocate=ledger.allocate)
    sequence = cache.sequence()
    cache.reserve(sequence, 300)
    with pytest.raises(KVExhaustedError, match="no memory"):
        cache.grow(sequence, 300)
    assert cache.bytes_in_use == 2 * cache.page_bytes
    cache.release(sequence)
    assert ledger.live == []


def test_released_pages_go_back_to_the_system() -> None:
    config = tiny_config(layers=16, kv_heads=8, head_dim=64)  # 2 MiB per page
    cache = KVCache(config, pages=24)
    sequence = cache.sequence()
    cache.reserve(sequence, 24 * PAGE_TOKENS)
    gc.collect()
    start = anonymous_bytes()
    cache.grow(sequence, 24 * PAGE_TOKENS)
    for page in sequence.pages:
        for part in cache.view(page):
            part.fill(1.0)
        del part
    full = anonymous_bytes()
    assert full - start >= 0.95 * cache.bytes_in_use
    cache.release(sequence)
    assert full - anonymous_bytes() >= 0.95 * 24 * cache.page_bytes


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.dtype("float16"), "float16"])
def test_other_types_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"np\.float16 or np\.float32"):
        KVCache(CONFIG, 4, dtype)


class Bookkeeping(RuleBasedStateMachine):
    """Any order of calls: nothing leaks, no page has two owners, and the figures are exact."""

    sequences = Bundle("sequences")

    @initialize(pages=st.integers(1, 12), limit=st.integers(1, 14))
    def start(self, pages: int, limit: int) -> None:
        self.ledger = Ledger(limit)
        self.cache = KVCache(CONFIG, pages, allocate=self.ledger.allocate)
        self.live: list[KVSequence] = []

    @rule(target=sequences)
    def sequence(self) -> KVSequence:
        self.live.append(self.cache.sequence())
        return self.live[-1]

    @rule(sequence=sequences, tokens=st.integers(0, 500))
    def reserve(self, sequence: KVSequence, tokens: int) -> None:
        before, free = sequence.reserved_pages, self.cache.free_pages
        needed = max(before, pages_for(tokens))
        try:
            self.cache.reserve(sequence, tokens)
        except KVExhaustedError:
            assert needed - before > free
            needed = before
        assert sequence.reserved_pages == needed

    @rule(sequence=sequences, tokens=st.integers(0, 500))
    def grow(self, sequence: KVSequence, tokens: int) -> None:
        fits = tokens <= sequence.reserved_tokens
        try:
            self.cache.grow(sequence, tokens)
        except ValueError:
            assert not fits
        except KVExhaustedError:
            assert len(self.ledger.live) == self.ledger.limit
        else:
            assert fits
            assert len(sequence.pages) >= pages_for(tokens)
            sequence.length = max(sequence.length, tokens)

    @rule(sequence=consumes(sequences))
    def release(self, sequence: KVSequence) -> None:
        self.cache.release(sequence)
        self.live.remove(sequence)
        assert (sequence.length, sequence.reserved_pages, sequence.pages) == (0, 0, [])

    @invariant()
    def books_are_exact(self) -> None:
        owned = [id(page.memory) for sequence in self.live for page in sequence.pages]
        assert len(owned) == len(set(owned))
        assert set(owned) == {id(memory) for memory in self.ledger.live}
        assert self.cache.bytes_in_use == len(owned) * self.cache.page_bytes
        reserved = sum(sequence.reserved_pages for sequence in self.live)
        assert self.cache.free_pages == self.cache.pages - reserved >= 0
        assert all(len(sequence.pages) <= sequence.reserved_pages for sequence in self.live)

    def teardown(self) -> None:
        for sequence in getattr(self, "live", []):
            self.cache.release(sequence)
        if hasattr(self, "cache"):
            assert (self.ledger.live, self.cache.free_pages) == ([], self.cache.pages)


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
