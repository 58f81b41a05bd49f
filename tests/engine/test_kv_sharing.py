"""Sequences that begin alike share pages: none is lost, none is given back while somebody has it."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.kv_cache import KVCache, KVSequence, pages_for
from flexquant.engine.prefix_cache import PAGE_TOKENS
from support.page_ledger import Ledger
from support.tiny_model import tiny_config

CONFIG = tiny_config()


def grown(cache: KVCache, tokens: list[int], room: int = 0) -> KVSequence:
    """A sequence of these tokens, computed as far as it was not there."""
    sequence = cache.sequence(len(tokens) + room, tokens)
    cache.grow(sequence, len(tokens))
    sequence.length = len(tokens)
    return sequence


def test_a_later_sequence_starts_behind_what_was_kept() -> None:
    ledger = Ledger()
    cache = KVCache(CONFIG, pages=10, allocate=ledger.allocate)
    first = grown(cache, [5] * 200)
    cache.keep(first, [5] * 200)
    second = cache.sequence(260, [5] * 150 + [6] * 50)
    assert second.pages == first.pages[:2]
    assert (second.length, second.cached_tokens, len(ledger.live)) == (128, 128, 4)
    cache.release(first)
    assert len(ledger.live) == 3, "the page that is not full goes, the others are kept"
    cache.release(second)
    assert cache.bytes_in_use == cache.reusable_bytes == 3 * cache.page_bytes
    assert cache.free_pages == 10, "what is only kept takes no place"
    cache.drop_reusable()
    assert (ledger.live, cache.bytes_in_use) == ([], 0)


def test_what_a_sequence_could_map_is_told_beforehand_and_counted_until_it_is_mapped() -> None:
    cache = KVCache(CONFIG, pages=10)
    first = grown(cache, [5] * 200)
    cache.keep(first, [5] * 200)
    assert cache.bytes_to_map(400, [6] * 400) == 7 * cache.page_bytes
    assert cache.bytes_to_map(260, [5] * 150) == 3 * cache.page_bytes, "two of its pages are there"
    assert cache.bytes_to_map(260, [5] * 150, usable=lambda page: page.positions is not None) == 5 * cache.page_bytes
    assert cache.promised_bytes == 0
    second = cache.sequence(260, [5] * 150)
    assert cache.promised_bytes == 3 * cache.page_bytes
    cache.grow(second, 200)
    assert cache.promised_bytes == cache.page_bytes
    cache.release(second)
    assert cache.promised_bytes == 0
    cache.release(first)
    cache.drop_reusable()


def test_looking_for_a_beginning_is_no_use_of_it() -> None:
    cache = KVCache(CONFIG, pages=4)
    for token in (1, 2):
        sequence = grown(cache, [token] * 128)
        cache.keep(sequence, [token] * 128)
        cache.release(sequence)
    cache.bytes_to_map(128, [1] * 128)
    other = cache.sequence(2 * PAGE_TOKENS)
    assert cache.bytes_to_map(128, [1] * 128) == 2 * cache.page_bytes, "the least recently used went"
    assert cache.bytes_to_map(128, [2] * 128) == 0
    cache.release(other)
    cache.drop_reusable()


def test_kept_pages_go_when_a_reservation_needs_their_place() -> None:
    cache = KVCache(CONFIG, pages=4)
    for token in (1, 2):
        sequence = grown(cache, [token] * 128)
        cache.keep(sequence, [token] * 128)
        cache.release(sequence)
    assert cache.bytes_in_use == 4 * cache.page_bytes
    other = cache.sequence(3 * PAGE_TOKENS, [2] * 128)
    assert other.cached_tokens == 128, "what the sequence itself uses is not dropped for it"
    assert cache.bytes_in_use == 3 * cache.page_bytes
    assert cache.reusable_bytes == cache.page_bytes
    cache.release(other)
    cache.drop_reusable()


def test_a_sequence_that_finds_no_place_changes_nothing() -> None:
    cache = KVCache(CONFIG, pages=4)
    first = grown(cache, [1] * 128)
    cache.keep(first, [1] * 128)
    with pytest.raises(KVExhaustedError):
        cache.sequence(5 * PAGE_TOKENS, [1] * 128)
    assert [page.users for page in first.pages] == [2, 2]
    assert cache.free_pages == 2
    cache.release(first)
    cache.drop_reusable()


def test_pages_of_other_positions_are_left_out_and_replaced_by_newer_ones() -> None:
    cache = KVCache(CONFIG, pages=8)
    first = grown(cache, [1] * 64)
    first.pages[0].note(0, 3)
    first.pages[0].note(2, 2)
    assert first.pages[0].positions == (0, 3)
    cache.keep(first, [1] * 64)
    second = cache.sequence(64, [1] * 64, usable=lambda page: page.positions == (2, 2))
    assert second.cached_tokens == 0
    cache.grow(second, 64)
    second.length = 64
    second.pages[0].note(2, 2)
    cache.keep(second, [1] * 64)
    third = cache.sequence(64, [1] * 64, usable=lambda page: page.positions == (2, 2))
    assert third.pages == second.pages
    for sequence in (first, second, third):
        cache.release(sequence)
    assert cache.bytes_in_use == cache.page_bytes
    cache.drop_reusable()
    assert cache.bytes_in_use == 0


class Sharing(RuleBasedStateMachine):
    """Any order of calls. Every page remembers which tokens it holds, so that a wrong one is noticed."""

    sequences = Bundle("sequences")

    @initialize(pages=st.integers(1, 10))
    def start(self, pages: int) -> None:
        self.ledger = Ledger()
        self.cache = KVCache(CONFIG, pages, allocate=self.ledger.allocate)
        self.live: list[tuple[KVSequence, list[int]]] = []

    @rule(target=sequences, path=st.lists(st.integers(1, 2), max_size=4), more=st.integers(0, 70))
    def begin(self, path: list[int], more: int) -> KVSequence:
        tokens = [token for token in path for _ in range(PAGE_TOKENS)] + [3] * more
        announced, promised = self.cache.bytes_to_map(len(tokens), tokens), self.cache.promised_bytes
        try:
            sequence = self.cache.sequence(len(tokens), tokens)
        except KVExhaustedError:
            reserved = sum(other.reserved_pages for other, _ in self.live)
            assert pages_for(len(tokens)) > self.cache.pages - reserved
            assert self.cache.promised_bytes == promised
            return KVSequence()
        assert self.cache.promised_bytes == promised + announced
        for page, start in zip(sequence.pages, range(0, len(tokens), PAGE_TOKENS), strict=False):
            assert page.memory.array()[:PAGE_TOKENS].tolist() == tokens[start : start + PAGE_TOKENS]
        self.cache.grow(sequence, len(tokens))
        for page, start in list(zip(sequence.pages, range(0, len(tokens), PAGE_TOKENS), strict=True)):
            if start >= sequence.length:
                part = tokens[start : start + PAGE_TOKENS]
                page.memory.array()[: len(part)] = part
        sequence.length = len(tokens)
        self.live.append((sequence, tokens))
        return sequence

    @rule(sequence=sequences, pages=st.integers(0, 5))
    def reserve(self, sequence: KVSequence, pages: int) -> None:
        if any(known is sequence for known, _ in self.live):
            try:
                self.cache.reserve(sequence, pages * PAGE_TOKENS)
            except KVExhaustedError:
                assert pages - sequence.reserved_pages > self.cache.free_pages

    @rule(sequence=sequences)
    def keep(self, sequence: KVSequence) -> None:
        for known, tokens in self.live:
            if known is sequence:
                self.cache.keep(sequence, np.array(tokens, np.int64))

    @rule(sequence=consumes(sequences))
    def release(self, sequence: KVSequence) -> None:
        self.cache.release(sequence)
        self.live = [(known, tokens) for known, tokens in self.live if known is not sequence]

    @rule()
    def drop(self) -> None:
        self.cache.drop_reusable()
        assert self.cache.reusable_bytes == 0

    @invariant()
    def books_are_exact(self) -> None:
        kept = list(self.cache._prefixes.pages())
        held = [page for sequence, _ in self.live for page in sequence.pages]
        for page in {id(page): page for page in [*held, *kept]}.values():
            assert page.users == sum(other is page for other in [*held, *kept])
        memories = {id(page.memory) for page in [*held, *kept]}
        assert memories == {id(memory) for memory in self.ledger.live}
        assert self.cache.bytes_in_use == len(memories) * self.cache.page_bytes
        reserved = sum(sequence.reserved_pages for sequence, _ in self.live)
        assert self.cache.free_pages == self.cache.pages - reserved >= 0
        unmapped = sum(sequence.reserved_pages - len(sequence.pages) for sequence, _ in self.live)
        assert self.cache.promised_bytes == unmapped * self.cache.page_bytes
        only_kept = sum(page.users == 1 for page in kept)
        assert self.cache.reusable_bytes == only_kept * self.cache.page_bytes
        assert reserved + only_kept <= self.cache.pages

    def teardown(self) -> None:
        for sequence, _ in getattr(self, "live", []):
            self.cache.release(sequence)
        if hasattr(self, "cache"):
            self.cache.drop_reusable()
            assert self.ledger.live == []


TestSharing = Sharing.TestCase
TestSharing.settings = settings(deadline=None, max_examples=80, stateful_step_count=30)


def test_no_more_is_kept_than_asked_for() -> None:
    """The limit on what is kept binds before the limit on all pages, and drops what was used first."""
    cache = KVCache(CONFIG, pages=8, kept=2)
    for start in (0, 1000):
        tokens = np.arange(start, start + 3 * PAGE_TOKENS)
        sequence = cache.sequence(3 * PAGE_TOKENS)
        cache.grow(sequence, 3 * PAGE_TOKENS)
        sequence.length = 3 * PAGE_TOKENS
        cache.keep(sequence, tokens)
        assert cache.reusable_bytes <= 2 * cache.page_bytes
        cache.release(sequence)
        assert cache.reusable_bytes == 2 * cache.page_bytes
        again = cache.sequence(3 * PAGE_TOKENS, tokens)
        assert again.cached_tokens == 2 * PAGE_TOKENS
        cache.release(again)
    cache.drop_reusable()
    assert cache.bytes_in_use == 0
