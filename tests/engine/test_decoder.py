import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.kv_cache import KVCache, KVSequence
from flexquant.engine.model_config import EMBEDDING
from support.tiny_model import RandomWeights, tiny_config
from support.torch_calls import appended

CONFIG = tiny_config()
DECODER = Decoder(CONFIG, RandomWeights(CONFIG))


class Interrupted(Exception):  # noqa: N818  # stands for a cancellation, which is no error
    pass


def make_tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(CONFIG.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def make_cache() -> KVCache:
    return KVCache(CONFIG, pages=64, dtype=np.float32)


def reserved(cache: KVCache, tokens: int = 512) -> KVSequence:
    sequence = cache.sequence()
    cache.reserve(sequence, tokens)
    return sequence


def whole_window(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Logits of all tokens, without a cache: f32 [tokens, vocab]."""
    hidden, positions = decoder.weights.embed(tokens), torch.arange(len(tokens))
    for layer in range(decoder.config.layers):
        hidden = decoder.layer(layer, hidden, positions, CausalAttention(len(tokens)))
    return decoder.logits(hidden)


@settings(deadline=None, max_examples=20)
@given(total=st.integers(1, 200), cuts=st.lists(st.integers(1, 199), max_size=4))
def test_passes_give_the_logits_of_the_whole_window(total: int, cuts: list[int]) -> None:
    tokens, cache = make_tokens(total), make_cache()
    expected, sequence = whole_window(DECODER, tokens), reserved(cache)
    for end in sorted({*(cut for cut in cuts if cut < total), total}):
        logits = torch.from_numpy(DECODER.forward([appended(sequence, tokens[sequence.length : end])], cache))
        assert sequence.length == end
        assert torch.allclose(logits[0], expected[end - 1], atol=2e-4)
    cache.release(sequence)


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), min_size=1, max_size=5))
def test_segments_of_a_pass_are_independent(sizes: list[tuple[int, int]]) -> None:
    cache = make_cache()
    segments, expected = [], []
    for seed, (past, new) in enumerate(sizes):
        tokens, sequence = make_tokens(past + new, seed), reserved(cache, 120)
        if past:
            DECODER.forward([appended(sequence, tokens[:past])], cache)
        segments.append(appended(sequence, tokens[past:]))
        expected.append(whole_window(DECODER, tokens)[-1])
    logits = torch.from_numpy(DECODER.forward(segments, cache))
    assert logits.shape == (len(sizes), CONFIG.vocab_size)
    assert torch.allclose(logits, torch.stack(expected), atol=2e-4)
    assert [segment.sequence.length for segment in segments] == [past + new for past, new in sizes]
    for segment in segments:
        cache.release(segment.sequence)


def test_a_layer_leaves_its_input_as_it_is() -> None:
    hidden = torch.randn(6, CONFIG.hidden_size)
    before = hidden.clone()
    DECODER.layer(0, hidden, torch.arange(6), CausalAttention(6))
    assert torch.equal(hidden, before)


def test_float16_pages_stay_close() -> None:
    tokens, cache = make_tokens(150), KVCache(CONFIG, pages=4)
    sequence = reserved(cache, 150)
    DECODER.forward([appended(sequence, tokens[:-1])], cache)
    logits = torch.from_numpy(DECODER.forward([appended(sequence, tokens[-1:])], cache))[0]
    expected = whole_window(DECODER, tokens)[-1]
    assert (logits - expected).norm() < 5e-3 * expected.norm()
    cache.release(sequence)


def test_the_safe_point_comes_before_each_layer() -> None:
    cache = make_cache()
    sequence, calls = reserved(cache), []
    DECODER.forward([appended(sequence, make_tokens(3))], cache, lambda: calls.append(sequence.length))
    assert calls == [0] * CONFIG.layers
    cache.release(sequence)


def raise_at(call: int) -> Callable[[], None]:
    remaining = iter(range(call))

    def safe_point() -> None:
        if next(remaining, None) is None:
            raise Interrupted

    return safe_point


@pytest.mark.parametrize("call", range(CONFIG.layers))
def test_an_interrupted_pass_can_be_made_again(call: int) -> None:
    cache, tokens = make_cache(), make_tokens(100)
    sequence, other = reserved(cache), reserved(cache)
    for part in (sequence, other):
        DECODER.forward([appended(part, tokens[:70])], cache)
    segments = [appended(sequence, tokens[70:]), appended(other, tokens[70:71])]
    with pytest.raises(Interrupted):
        DECODER.forward(segments, cache, raise_at(call))
    assert (sequence.length, other.length) == (70, 70)

    logits = torch.from_numpy(DECODER.forward(segments, cache))

    undisturbed = make_cache()
    fresh = [reserved(undisturbed), reserved(undisturbed)]
    for part in fresh:
        DECODER.forward([appended(part, tokens[:70])], undisturbed)
    expected = DECODER.forward(
        [appended(fresh[0], tokens[70:]), appended(fresh[1], tokens[70:71])],
        undisturbed,
    )
    assert torch.equal(logits, torch.from_numpy(expected))
    for part in (sequence, other):
        cache.release(part)
    for part in fresh:
        undisturbed.release(part)


def test_an_interrupted_sequence_can_be_released_at_once() -> None:
    cache = make_cache()  # arenas, which refuse to go while a view is alive
    sequence = reserved(cache)
    with pytest.raises(Interrupted):  # noqa: PT012  # the release has to happen while the exception is alive
        try:
            DECODER.forward([appended(sequence, make_tokens(100))], cache, raise_at(2))
        except Interrupted:
            cache.release(sequence)
            raise
    assert (cache.bytes_in_use, cache.free_pages) == (0, 64)


def test_weights_may_change_at_a_safe_point() -> None:
    """The layers before it run with the old weights, those behind it with the new ones."""
    old, new, changing = (RandomWeights(CONFIG, seed) for seed in (1, 2, 1))
    mixed = RandomWeights(CONFIG, 1)
    after = [name for name in new.tensors if name.startswith(("model.layers.2", "model.norm", "lm_head"))]
    mixed.tensors |= {name: new.tensors[name] for name in after}
    calls = iter(range(CONFIG.layers))

    def safe_point() -> None:
        if next(calls) == 2:
            changing.tensors |= {name: tensor for name, tensor in new.tensors.items() if name != EMBEDDING}

    def logits(weights: RandomWeights, safe_point: Callable[[], None]) -> Tensor:
        cache = make_cache()
        sequence = reserved(cache)
        try:
            decoder = Decoder(CONFIG, weights)
            return torch.from_numpy(decoder.forward([appended(sequence, make_tokens(5))], cache, safe_point))
        finally:
            cache.release(sequence)

    swapped = logits(changing, safe_point)
    assert torch.equal(swapped, logits(mixed, lambda: None))
    assert not torch.allclose(swapped, logits(old, lambda: None))


def test_nothing_of_a_sequence_changes_when_memory_is_short() -> None:
    def no_memory(nbytes: int) -> "pytest.FixtureRequest":
        raise MemoryError

    cache = KVCache(CONFIG, pages=4, allocate=no_memory)  # type: ignore[arg-type]  # never returns
    sequence = reserved(cache, 10)
    with pytest.raises(KVExhaustedError):
        DECODER.forward([appended(sequence, make_tokens(3))], cache)
    assert sequence.length == 0


@pytest.mark.parametrize("empty", [True, False])
def test_a_pass_without_tokens_is_refused(empty: bool) -> None:
    cache = make_cache()
    segments = [] if empty else [appended(reserved(cache), make_tokens(0))]
    with pytest.raises(ValueError, match="tokens"):
        DECODER.forward(segments, cache)


def test_a_pass_beyond_the_reservation_is_refused() -> None:
    cache = make_cache()
    sequence = reserved(cache, 64)
    with pytest.raises(ValueError, match="reservation of 64"):
        DECODER.forward([appended(sequence, make_tokens(65))], cache)
    assert sequence.length == 0


@pytest.fixture(autouse=True)
def _no_arena_is_dropped() -> None:
    """An arena that is dropped without release warns, and warnings are errors: collect what hypothesis left."""
    gc.collect()
