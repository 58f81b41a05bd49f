"""Keys and values on the card: shared beginnings are copied, and all of it goes back."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.exllamav2.cache import CardCache
from flexquant.engine.kv_cache import KVSequence
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.segment import Segment
from support.fake_card import FakeCard, FakeSetUp

Load = Callable[..., ElasticModel]

BEGINNING = np.arange(600) % 250 + 8


def test_a_beginning_is_computed_once_and_answers_alike(load: Load) -> None:
    model = load(kv_pages=32)
    first = model.new_sequence(620, BEGINNING)
    assert first.cached_tokens == 0
    for start in (0, 256, 512):
        expected = model.forward([Segment(first, BEGINNING[start : start + 256])])
    model.keep(first, BEGINNING, len(BEGINNING))
    while_it_lives = model.new_sequence(620, BEGINNING)
    assert while_it_lives.cached_tokens == 512
    assert np.array_equal(model.forward([Segment(while_it_lives, BEGINNING[512:])]), expected)
    model.release(first)
    afterwards = model.new_sequence(620, BEGINNING)
    assert afterwards.cached_tokens == 512
    assert np.array_equal(model.forward([Segment(afterwards, BEGINNING[512:])]), expected)
    for sequence in (while_it_lives, afterwards):
        model.release(sequence)


def test_kept_pages_are_moved_together_and_go_back(load: Load, fakes: FakeSetUp) -> None:
    model = load(kv_pages=32)
    weights = fakes.card.used
    sequence = model.new_sequence(1900, BEGINNING)
    page = model.resident_bytes().kv // 30
    for start in (0, 256, 512):
        model.forward([Segment(sequence, BEGINNING[start : start + 256])])
    model.keep(sequence, BEGINNING, len(BEGINNING))
    model.release(sequence)
    assert fakes.card.used - weights == model.resident_bytes().kv == model.reusable_bytes == 8 * page
    model.drop_reusable()
    model.safe_point()
    assert fakes.card.used == weights
    assert model.resident_bytes().kv == 0


def test_kept_pages_make_room(load: Load) -> None:
    model = load(kv_pages=10)
    sequence = model.new_sequence(512, BEGINNING)
    for start in (0, 256):
        model.forward([Segment(sequence, BEGINNING[start : start + 256])])
    model.keep(sequence, BEGINNING[:512], 512)
    model.release(sequence)
    other = model.new_sequence(10 * PAGE_TOKENS)
    assert model.reusable_bytes == 0
    with pytest.raises(KVExhaustedError):
        model.new_sequence(1)
    model.release(other)


def test_a_card_without_room_refuses_and_loses_nothing(model: ElasticModel, fakes: FakeSetUp) -> None:
    before = fakes.card.used
    fakes.card.total = before + 1000
    with pytest.raises(KVExhaustedError, match="card has no memory"):
        model.new_sequence(100)
    fakes.card.total = 1 << 30
    assert fakes.card.used == before
    sequence = model.new_sequence(100)
    model.release(sequence)
    model.release(sequence)
    assert fakes.card.used == before


def test_reservations_are_final_and_types_half(ensemble: Ensemble) -> None:
    cache = CardCache(ensemble.config, 8, np.float16, card=FakeCard())
    sequence = cache.sequence(64)
    cache.reserve(sequence, 10)
    with pytest.raises(ValueError, match="cannot be extended"):
        cache.reserve(sequence, 65)
    with pytest.raises(ValueError, match="exceed the sequence's reservation"):
        cache.grow(sequence, 65)
    cache.release(sequence)
    with pytest.raises(ValueError, match=r"np\.float16"):
        CardCache(ensemble.config, 8, np.float32, card=FakeCard())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["new", "grow", "keep", "release", "drop"]), st.integers(0, 5), st.integers(1, 400)),
        max_size=30,
    )
)
def test_whatever_happens_the_books_are_right(ensemble: Ensemble, steps: list[tuple[str, int, int]]) -> None:
    """The card holds exactly what the books say; when all is released and dropped it holds nothing."""
    card = FakeCard()
    cache = CardCache(ensemble.config, 24, np.float16, card=card)
    alive: list[tuple[KVSequence, np.ndarray]] = []
    for step, which, tokens in steps:
        if step == "new":
            ids = np.concatenate([np.full(which * PAGE_TOKENS, 7), np.full(400, which)])
            try:
                alive.append((cache.sequence(tokens, ids[: tokens - 1]), ids))
            except KVExhaustedError:
                assert tokens > 0
        elif step == "drop":
            cache.drop_reusable()
            assert cache.reusable_bytes == 0
        elif alive:
            sequence, ids = alive[which % len(alive)]
            if step == "grow":
                length = min(tokens, sequence.reserved_tokens)
                cache.grow(sequence, length)
                sequence.length = max(length, sequence.length)
            elif step == "keep":
                cache.keep(sequence, ids[: sequence.length])
            else:
                cache.release(sequence)
                alive.remove((sequence, ids))
        assert cache.bytes_in_use == card.used
        assert cache.reusable_bytes <= card.used
    for sequence, _ in alive:
        cache.release(sequence)
    cache.drop_reusable()
    assert card.used == cache.bytes_in_use == 0
