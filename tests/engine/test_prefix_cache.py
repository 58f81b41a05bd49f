"""Pages by the tokens that lead to them: what is found, what is replaced, what goes first."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.prefix_cache import PAGE_TOKENS, PrefixCache


def tokens(*pages: int, more: int = 0) -> list[int]:
    """Pages filled with one token each, and `more` of token 9 behind them."""
    return [page for page in pages for _ in range(PAGE_TOKENS)] + [9] * more


def always(*_: str) -> bool:
    return True


def never(*_: str) -> bool:
    return False


def filled() -> PrefixCache[str]:
    """Two paths that part after the first page: 1 2 3 and 1 4."""
    cache: PrefixCache[str] = PrefixCache()
    assert cache.insert(tokens(1, 2, 3, more=5), ["a", "b", "c", "part"], never) == [
        ("a", None),
        ("b", None),
        ("c", None),
    ]
    assert cache.insert(tokens(1, 4), ["other a", "d"], never) == [("d", None)]
    return cache


def test_the_longest_common_beginning_is_found_by_whole_pages() -> None:
    cache = filled()
    assert cache.match(tokens(1, 2, 3, 7), always) == ["a", "b", "c"]
    assert cache.match(tokens(1, 2, more=63), always) == ["a", "b"]
    assert cache.match(tokens(1, 4, 3), always) == ["a", "d"]
    assert cache.match(tokens(1)[:-1], always) == []
    assert cache.match(tokens(2, 3), always) == [], "a page counts behind its own beginning only"
    assert cache.match([], always) == []


def test_pages_behind_one_that_is_not_usable_are_no_use() -> None:
    assert filled().match(tokens(1, 2, 3), lambda page: page != "b") == ["a"]


def test_a_page_that_is_replaced_is_named() -> None:
    cache = filled()
    assert cache.insert(tokens(1, 2, 3), ["A", "b", "C"], lambda new, _kept: new.upper() == new) == [
        ("A", "a"),
        ("C", "c"),
    ]
    assert cache.match(tokens(1, 2, 3), always) == ["A", "b", "C"]
    assert cache.match(tokens(1, 4), always) == ["A", "d"], "what lies behind a replaced page stays"
    assert len(cache) == 4


def test_the_least_recently_used_goes_first_and_never_before_what_lies_behind_it() -> None:
    cache = filled()
    cache.match(tokens(1, 2, 3), always)
    assert cache.evict(1, always) == ["d"]
    assert cache.evict(2, always) == ["c", "b"]
    assert cache.evict(9, always) == ["a"]
    assert len(cache) == 0


def test_what_is_in_use_stays_and_so_does_what_leads_to_it() -> None:
    cache = filled()
    assert cache.evict(1, lambda page: page == "d") == ["d"]
    assert cache.evict(9, never) == []
    assert cache.match(tokens(1, 2, 3), always) == ["a", "b", "c"]


def test_what_lies_behind_a_page_that_must_go_goes_with_it_even_in_use() -> None:
    """A replaced page can be free while those behind it are in use: these leave the tree, not their sequences."""
    cache = filled()
    assert cache.evict(2, lambda page: page in ("a", "d")) == ["d", "c", "b", "a"]
    assert len(cache) == 0


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["insert", "match", "evict"]), st.lists(st.integers(1, 3), max_size=4)), max_size=30
    )
)
def test_it_agrees_with_a_plain_dictionary_of_beginnings(steps: list[tuple[str, list[int]]]) -> None:
    cache: PrefixCache[tuple[int, ...]] = PrefixCache()
    model: dict[tuple[int, ...], int] = {}  # beginning: when it was used last
    for now, (what, path) in enumerate(steps):
        beginnings = [tuple(path[: end + 1]) for end in range(len(path))]
        ids = np.array(tokens(*path), np.int64)
        if what == "insert":
            added = cache.insert(ids, beginnings, lambda _new, _kept: False)
            assert [page for page, _ in added] == [found for found in beginnings if found not in model]
            model.update((found, now) for found in beginnings)
        elif what == "match":
            expected = [found for found in beginnings if found in model]
            assert cache.match(ids, lambda _page: True) == expected
            model.update((found, now) for found in expected)
        else:
            for evicted in cache.evict(len(path), lambda _page: True):
                assert not any(other[: len(evicted)] == evicted != other for other in model), "nothing lies behind it"
                oldest = min(model.values())
                assert model.pop(evicted) == oldest
        assert sorted(cache.pages()) == sorted(model)
