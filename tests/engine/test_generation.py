import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.decoder import Decoder
from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.generation import Generation
from flexquant.engine.kv_cache import KVCache, KVSequence
from flexquant.engine.memory.registry import MemoryRegistry, MemorySnapshot
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.sampling import SamplingParams
from flexquant.engine.segment import Floats, Segment, Tokens, nothing
from support.tiny_model import RandomWeights, tiny_config

EOS = 1


class CountingBackend:
    """Answers every sequence with the next number: after token t comes t + 1. Notes the segments it gets."""

    def __init__(self, pages: int = 32) -> None:
        self.config: ModelConfig = tiny_config(eos_ids=(EOS, 90))
        self.cache = KVCache(self.config, pages)
        self.passes: list[list[int]] = []
        self.released: list[KVSequence] = []

    def new_sequence(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> KVSequence:
        prompt = np.array([], np.int64) if prompt is None or exact else prompt[: (len(prompt) - 1) // 64 * 64]
        return self.cache.sequence(tokens, prompt)

    def keep(self, sequence: KVSequence, tokens: Tokens, prompt_tokens: int) -> None:
        assert sequence.length <= len(tokens) >= prompt_tokens
        self.cache.keep(sequence, tokens)

    def release(self, sequence: KVSequence) -> None:
        self.cache.release(sequence)

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        safe_point()
        logits = np.zeros((len(segments), self.config.vocab_size), np.float32)
        for row, segment in enumerate(segments):
            self.cache.grow(segment.sequence, segment.sequence.length + len(segment.tokens))
            self.passes.append(segment.tokens.tolist())
            logits[row, (int(segment.tokens[-1]) + 1) % self.config.vocab_size] = 9.0
            segment.sequence.length += len(segment.tokens)
        return logits

    def resident_bytes(self) -> MemorySnapshot:
        return MemoryRegistry(fixed=0, embedding=0, scratch={}).snapshot()


class TinyBackend(CountingBackend):
    """A real decoder with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = Decoder(self.config, RandomWeights(self.config))

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        return self._decoder.forward(segments, self.cache, safe_point)


def run(generation: Generation) -> list[int | None]:
    with generation:
        steps = []
        while not generation.finished:
            steps.append(generation.step())
        return steps


@settings(deadline=None, max_examples=50)
@given(length=st.integers(1, 300), max_tokens=st.integers(1, 40), chunk=st.integers(1, 100))
def test_the_prompt_goes_in_by_chunks_then_tokens_come(length: int, max_tokens: int, chunk: int) -> None:
    backend = CountingBackend()
    prompt = [(2 + i) % 40 + 2 for i in range(length)]
    generation = Generation(backend, prompt, max_tokens=max_tokens, ignore_eos=True, chunk=chunk)

    steps = run(generation)

    passes = -(-length // chunk)
    expected = [(prompt[-1] + 1 + i) % backend.config.vocab_size for i in range(max_tokens)]
    assert steps == [None] * (passes - 1) + expected
    assert generation.generated == expected
    assert generation.finished == "length"
    assert backend.passes[:passes] == [prompt[at : at + chunk] for at in range(0, length, chunk)]
    assert backend.passes[passes:] == [[token] for token in expected[:-1]]
    assert backend.cache.free_pages == 32


def test_an_end_of_sequence_token_ends_it_and_is_the_last_one() -> None:
    generation = Generation(CountingBackend(), [5, 87], max_tokens=10)
    assert run(generation) == [88, 89, 90]
    assert (generation.finished, generation.prompt_tokens) == ("stop", 2)


def test_end_of_sequence_tokens_can_be_ignored() -> None:
    generation = Generation(CountingBackend(), [5, 87], max_tokens=5, ignore_eos=True)
    assert run(generation) == [88, 89, 90, 91, 92]
    assert generation.finished == "length"


def test_decoding_says_whether_steps_give_tokens() -> None:
    with Generation(CountingBackend(), list(range(10, 20)), max_tokens=3, chunk=4) as generation:
        seen = []
        while not generation.finished:
            before = generation.decoding
            seen.append((before, generation.step()))
    assert seen == [(False, None), (False, None), (False, 20), (True, 21), (True, 22)]


def test_a_finished_generation_makes_no_more_steps() -> None:
    with Generation(CountingBackend(), [5], max_tokens=1) as generation:
        generation.step()
        with pytest.raises(RuntimeError, match="finished"):
            generation.step()


def test_it_reserves_what_it_needs_and_no_more() -> None:
    backend = CountingBackend(pages=2)
    with Generation(backend, [5] * 100, max_tokens=29, ignore_eos=True) as generation:
        assert backend.cache.free_pages == 0
        while not generation.finished:
            generation.step()
    with pytest.raises(KVExhaustedError):
        Generation(backend, [5] * 100, max_tokens=30)
    assert backend.cache.free_pages == 2


@pytest.mark.parametrize(("prompt", "max_tokens"), [([], 5), ([3], -1)])
def test_nothing_to_do_is_refused(prompt: list[int], max_tokens: int) -> None:
    with pytest.raises(ValueError, match="to be generated"):
        Generation(CountingBackend(), prompt, max_tokens=max_tokens)


def test_without_tokens_to_generate_the_prompt_goes_in_and_is_kept() -> None:
    backend = CountingBackend()
    with Generation(backend, [5] * 128, max_tokens=0, chunk=100) as generation:
        assert [generation.step(), generation.finished, generation.step()] == [None, None, None]
        assert (generation.finished, generation.generated) == ("length", [])
        assert backend.cache.free_pages == 30
    with Generation(backend, [5] * 129, max_tokens=1) as later:
        assert later.cached_tokens == 128


def test_closing_twice_is_allowed() -> None:
    backend = CountingBackend()
    generation = Generation(backend, [5], max_tokens=1)
    generation.close()
    generation.close()
    assert backend.cache.free_pages == 32


class Interrupted(Exception):  # noqa: N818  # stands for a cancellation, which is no error
    pass


def interrupt() -> None:
    raise Interrupted


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(seed=3)])
def test_interrupted_steps_change_nothing(sampling: SamplingParams) -> None:
    prompt = list(range(2, 80))
    undisturbed = run(Generation(TinyBackend(), prompt, max_tokens=12, sampling=sampling, chunk=32, ignore_eos=True))
    disturbed = []
    with Generation(TinyBackend(), prompt, max_tokens=12, sampling=sampling, chunk=32, ignore_eos=True) as generation:
        while not generation.finished:
            with pytest.raises(Interrupted):
                generation.step(interrupt)
            disturbed.append(generation.step())
    assert disturbed == undisturbed


def test_what_a_prompt_has_in_common_with_an_earlier_one_is_not_computed_again() -> None:
    backend, prompt = CountingBackend(), [7] * 300
    first = Generation(backend, prompt, max_tokens=3, ignore_eos=True)
    while not first.generated:
        first.step()
    early = Generation(backend, prompt, max_tokens=3, ignore_eos=True)  # while the first one goes on
    assert (first.cached_tokens, early.cached_tokens) == (0, 256)
    run(first)
    backend.passes.clear()
    run(early)
    assert [len(tokens) for tokens in backend.passes] == [44, 1, 1]
    with Generation(backend, prompt, max_tokens=3, exact=True) as exact:
        assert exact.cached_tokens == 0
    with Generation(backend, [7] * 64, max_tokens=3) as short:
        assert short.cached_tokens == 0, "the last token is always computed: its logits are needed"


def test_answers_are_kept_too_and_a_conversation_goes_on_behind_them() -> None:
    backend = CountingBackend()
    with Generation(backend, [2] * 60, max_tokens=80, ignore_eos=True) as first:
        run(first)
    with Generation(backend, [2] * 60 + first.generated + [5] * 10, max_tokens=3) as second:
        assert second.cached_tokens == 128


def test_a_prompt_that_is_given_up_half_way_leaves_what_was_computed() -> None:
    backend, prompt = CountingBackend(), [7] * 600
    with Generation(backend, prompt, max_tokens=3) as given_up:
        given_up.step()
        with pytest.raises(Interrupted):
            given_up.step(interrupt)
    with Generation(backend, prompt, max_tokens=3) as again:
        assert again.cached_tokens == 256


def test_generations_can_share_a_pass() -> None:
    """What a scheduler does: segments of several generations in one forward, a row of logits to each."""
    backend = TinyBackend()
    prompts = [list(range(2, 60)), [7, 8, 9], list(range(30, 70))]
    alone = [run(Generation(TinyBackend(), prompt, max_tokens=6, ignore_eos=True)) for prompt in prompts]
    generations = [Generation(backend, prompt, max_tokens=6, ignore_eos=True) for prompt in prompts]
    while running := [generation for generation in generations if not generation.finished]:
        logits = backend.forward([generation.next_segment() for generation in running])
        for generation, row in zip(running, logits, strict=True):
            generation.accept(row)
    assert [generation.generated for generation in generations] == alone
    for generation in generations:
        generation.close()


def test_greedy_is_deterministic_and_seeds_are_kept() -> None:
    def texts(sampling: SamplingParams) -> list[int | None]:
        return run(Generation(TinyBackend(), [3, 4, 5], max_tokens=30, sampling=sampling, ignore_eos=True))

    assert texts(SamplingParams(temperature=0)) == texts(SamplingParams(temperature=0))
    assert texts(SamplingParams(seed=5)) == texts(SamplingParams(seed=5))
    assert texts(SamplingParams(seed=5)) != texts(SamplingParams(seed=6))


def test_a_generation_scores_the_models_own_distribution() -> None:
    """Whatever sampling makes of it: the token is forced by a bias, and keeps what the model gave it."""
    biased = SamplingParams(temperature=0, logit_bias=((7, 100.0),), repetition_penalty=2)
    with Generation(CountingBackend(), [5], max_tokens=3, sampling=biased, logprobs=2) as generation:
        assert generation.step() == 7
        assert generation.score is not None
        total = math.log(math.exp(9) + tiny_config().vocab_size - 1)
        assert generation.score.logprob == pytest.approx(-total)
        assert [token for token, _ in generation.score.top] == [6, 0]
        assert [logprob for _, logprob in generation.score.top] == pytest.approx([9 - total, -total])


def test_scores_do_not_change_the_answer_and_cost_nothing_unless_asked_for() -> None:
    sampling = SamplingParams(seed=5)
    with Generation(TinyBackend(), [3, 4, 5], max_tokens=9, sampling=sampling, ignore_eos=True) as plain:
        answer = run(plain)
        assert plain.score is None
    scored = Generation(TinyBackend(), [3, 4, 5], max_tokens=9, sampling=sampling, ignore_eos=True, logprobs=3)
    assert run(scored) == answer


class CountsTo:
    """Allows the next number alone, up to `last`; nothing may follow that."""

    def __init__(self, first: int, last: int) -> None:
        self._next, self._last = first, last

    @property
    def finished(self) -> bool:
        return self._next > self._last

    def mask(self, logits: npt.NDArray[np.float64]) -> None:
        logits[: self._next] = logits[self._next + 1 :] = -math.inf

    def accept(self, token: int) -> None:
        assert token == self._next
        self._next += 1


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize(("most", "reason"), [(9, "stop"), (4, "stop"), (3, "length")])
def test_a_constraint_after_which_nothing_can_follow_ends_the_answer(ignore_eos: bool, most: int, reason: str) -> None:
    generation = Generation(
        CountingBackend(), [50], max_tokens=most, ignore_eos=ignore_eos, constraint=CountsTo(10, 13)
    )
    assert run(generation) == list(range(10, 10 + min(most, 4)))
    assert generation.finished == reason
    assert not generation.at_end_token, "the last token is a part of the text"


def test_what_a_constraint_excludes_keeps_its_probability_in_the_scores() -> None:
    with Generation(CountingBackend(), [50], max_tokens=2, logprobs=1, constraint=CountsTo(10, 13)) as generation:
        assert generation.step() == 10
        assert generation.score is not None
        total = math.log(math.exp(9) + tiny_config().vocab_size - 1)
        assert generation.score.logprob == pytest.approx(-total)
        ((likeliest, logprob),) = generation.score.top
        assert likeliest == 51
        assert logprob == pytest.approx(9 - total)


def test_an_end_token_under_a_constraint_ends_the_answer() -> None:
    with Generation(CountingBackend(), [50], max_tokens=9, constraint=CountsTo(89, 95)) as generation:
        assert run(generation) == [89, 90]
        assert generation.finished == "stop"
        assert generation.at_end_token
