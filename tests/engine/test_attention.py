import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexquant.engine.attention import CausalAttention, PagedAttention
from flexquant.engine.kv_cache import KVCache, KVSequence, KVType, PageMemory
from support.page_slot import Slot
from support.tiny_model import tiny_config

HEADS = st.sampled_from([(4, 4), (4, 2), (6, 2), (4, 1)])
HEAD_DIM = 8
LAYERS = 2


def random_rows(rows: int, heads: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, heads[0], HEAD_DIM, generator=generator)
    k, v = torch.randn(2, rows, heads[1], HEAD_DIM, generator=generator)
    return q, k, v


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, row by row and head by head, in float64."""
    shared = q.shape[1] // k.shape[1]
    result = torch.empty(q.shape, dtype=torch.float64)
    for row in range(len(q)):
        for head in range(q.shape[1]):
            keys, values = (x[: row + 1, head // shared].double() for x in (k, v))
            scores = keys @ q[row, head].double() / math.sqrt(q.shape[2])
            result[row, head] = scores.softmax(0) @ values
    return result.flatten(1).float()


def scattered(seed: int) -> Callable[[int], PageMemory]:
    """An allocator that puts pages in random order into one buffer of garbage (NaN)."""
    slots: list[Slot] = []

    def allocate(nbytes: int) -> PageMemory:
        if not slots:
            slots.extend(Slot(page) for page in torch.full((32, nbytes), 0xFF, dtype=torch.uint8))
            random.Random(seed).shuffle(slots)
        return slots.pop()

    return allocate


def make_cache(heads: tuple[int, int], placement: int = 0, dtype: KVType = np.float32) -> KVCache:
    config = tiny_config(layers=LAYERS, heads=heads[0], kv_heads=heads[1], head_dim=HEAD_DIM)
    return KVCache(config, pages=32, dtype=dtype, allocate=scattered(placement))


def filled_sequence(cache: KVCache) -> KVSequence:
    sequence = cache.sequence()
    cache.reserve(sequence, 512)
    return sequence


def run_paged(cache: KVCache, sequence: KVSequence, cuts: list[int], rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention of all rows in passes that end at `cuts` and at the end."""
    results = []
    for end in sorted({*cuts, len(rows[0])} - {0}):
        cache.grow(sequence, end)
        part = slice(sequence.length, end)
        with PagedAttention(cache, [(sequence, end - sequence.length)]) as attend:
            results.append(attend(1, *(x[part] for x in rows)))
        sequence.length = end
    return torch.cat(results)


@settings(deadline=None, max_examples=30)
@given(heads=HEADS, windows=st.integers(1, 3), window=st.integers(1, 40), seed=st.integers(0, 1000))
def test_causal_attention_is_the_definition(heads: tuple[int, int], windows: int, window: int, seed: int) -> None:
    rows = random_rows(windows * window, heads, seed)
    expected = torch.cat(
        [plain_attention(*(x[at : at + window] for x in rows)) for at in range(0, len(rows[0]), window)]
    )
    assert torch.allclose(CausalAttention(window)(0, *rows), expected, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(heads=HEADS, rows=st.integers(1, 200), cuts=st.lists(st.integers(0, 200), max_size=5), seed=st.integers(0, 1000))
def test_paged_attention_is_that_on_contiguous_memory(
    heads: tuple[int, int], rows: int, cuts: list[int], seed: int
) -> None:
    tensors = random_rows(rows, heads, seed)
    cache = make_cache(heads)
    paged = run_paged(cache, filled_sequence(cache), [cut for cut in cuts if cut <= rows], tensors)
    assert torch.allclose(paged, CausalAttention(rows)(1, *tensors), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    heads=HEADS,
    rows=st.integers(1, 200),
    cuts=st.lists(st.integers(0, 200), max_size=5),
    placement=st.integers(1, 1000),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_where_pages_lie_changes_no_bit(
    heads: tuple[int, int], rows: int, cuts: list[int], placement: int, dtype: KVType
) -> None:
    cuts = [cut for cut in cuts if cut <= rows]
    tensors = random_rows(rows, heads, 0)
    here, there = make_cache(heads, 0, dtype), make_cache(heads, placement, dtype)
    assert torch.equal(
        run_paged(here, filled_sequence(here), cuts, tensors), run_paged(there, filled_sequence(there), cuts, tensors)
    )


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 70)), min_size=2, max_size=4))
def test_a_sequence_does_not_depend_on_those_that_share_the_pass(lengths: list[tuple[int, int]]) -> None:
    heads = (4, 2)
    together, alone = make_cache(heads), make_cache(heads)
    spans, rows, expected = [], [], []
    for seed, (past, new) in enumerate(lengths):
        tensors = random_rows(past + new, heads, seed)
        for cache in (together, alone):
            sequence = filled_sequence(cache)
            if past:
                run_paged(cache, sequence, [], tuple(x[:past] for x in tensors))  # type: ignore[arg-type]  # a triple
            if cache is together:
                cache.grow(sequence, past + new)
                spans.append((sequence, new))
                rows.append([x[past:] for x in tensors])
            else:
                expected.append(run_paged(cache, sequence, [past], tensors)[-new:])
    with PagedAttention(together, spans) as attend:
        q, k, v = (torch.cat(list(parts)) for parts in zip(*rows, strict=True))
        assert torch.equal(attend(1, q, k, v), torch.cat(expected))


def test_layers_have_their_own_keys_and_values() -> None:
    cache = make_cache((2, 2))
    sequence = filled_sequence(cache)
    first, second = random_rows(5, (2, 2), 1), random_rows(5, (2, 2), 2)
    cache.grow(sequence, 6)
    with PagedAttention(cache, [(sequence, 5)]) as attend:
        attend(0, *first)
        attend(1, *second)
    sequence.length = 5
    one = random_rows(1, (2, 2), 3)
    with PagedAttention(cache, [(sequence, 1)]) as attend:
        for layer, past in enumerate((first, second)):
            expected = plain_attention(*(torch.cat((old, new)) for old, new in zip(past, one, strict=True)))[-1:]
            assert torch.allclose(attend(layer, *one), expected, atol=1e-5)


def test_pages_can_go_back_while_an_exception_is_on_its_way() -> None:
    config = tiny_config(layers=LAYERS, heads=2, kv_heads=2, head_dim=HEAD_DIM)
    cache = KVCache(config, pages=4)  # real arenas, which refuse to go while a view is alive
    sequence = filled_sequence_of(cache, 100)
    try:
        with PagedAttention(cache, [(sequence, 100)]) as attend:
            q, k, v = random_rows(100, (2, 2), 0)
            attend(0, q, k, v)
            attend(0, q[:, :, :5], k, v)  # wrong shape
    except RuntimeError:
        cache.release(sequence)
    else:
        pytest.fail("the wrong shape was accepted")
    assert cache.bytes_in_use == 0


def filled_sequence_of(cache: KVCache, tokens: int) -> KVSequence:
    sequence = cache.sequence()
    cache.reserve(sequence, tokens)
    cache.grow(sequence, tokens)
    return sequence
