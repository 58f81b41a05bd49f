"""Scores of a prompt's tokens: those of a model that gets it token by token, however it goes in."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.backend import Backend
from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.logprobs import PromptScores, TokenScore, score
from flexquant.engine.segment import READ_ROWS, Floats, Segment, nothing
from support.ensembles import Shape, random_ensemble
from support.native_layers import needs_native

TOP = 3
PROMPT = [5 + token * 7 % 250 for token in range(300)]
"""More than a pass of a prompt, and several pages."""


@pytest.fixture(scope="module", params=["torch", pytest.param("auto", marks=needs_native)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticModel]:
    folder: Path = tmp_path_factory.mktemp("ensemble") / "tiny"
    random_ensemble(folder, Shape(context=1024))
    model = ElasticModel.load(Ensemble.open(folder), kv_pages=32, compute=choose_compute(request.param, 2))
    yield model
    model.close()


@pytest.fixture(scope="module")
def expected(model: ElasticModel) -> list[TokenScore]:
    """Of PROMPT, from one pass for each token."""
    sequence = model.new_sequence(len(PROMPT))
    found = [TokenScore(PROMPT[0], None, ())]
    for token, following in pairwise(PROMPT):
        found.append(score(model.forward([Segment(sequence, np.array([token]))])[0], following, TOP))
    model.release(sequence)
    return found


def scores(backend: Backend, prompt: list[int], safe_point: Callable[[], None] = nothing) -> list[TokenScore]:
    with Generation(backend, prompt, max_tokens=0, logprobs=TOP, score_prompt=True) as generation:
        while not generation.finished:
            assert generation.step(safe_point) is None
        assert (generation.finished, generation.generated, generation.cached_tokens) == ("length", [], 0)
        return list(generation.prompt_scores)


def same(model: ElasticModel, found: list[TokenScore], expected: list[TokenScore]) -> bool:
    """Bit for bit where rows are independent of each other."""
    if model._independent_rows:
        return found == expected
    assert [(one.token, len(one.top)) for one in found] == [(one.token, len(one.top)) for one in expected]
    values = [
        [one.logprob or 0.0, *(logprob for _, logprob in one.top)] for both in (found, expected) for one in both[1:]
    ]
    half = len(values) // 2
    return np.allclose(values[:half], values[half:], atol=1e-4)


def test_scores_are_those_of_a_pass_for_each_token(model: ElasticModel, expected: list[TokenScore]) -> None:
    assert expected[1].logprob is not None
    assert expected[1].logprob < 0
    assert same(model, scores(model, PROMPT), expected)
    assert same(model, scores(model, PROMPT[:1]), expected[:1])
    assert same(model, scores(model, PROMPT[:65]), expected[:65])


def test_kept_beginnings_skip_no_token_and_scored_prompts_are_kept(
    model: ElasticModel, expected: list[TokenScore]
) -> None:
    for _ in range(2):
        assert same(model, scores(model, PROMPT), expected)
    with Generation(model, PROMPT, max_tokens=1) as later:
        assert later.cached_tokens == 256


def test_answers_go_on_as_without_scores(model: ElasticModel) -> None:
    def answer(*, score_prompt: bool) -> list[int]:
        with Generation(
            model, PROMPT[:70], max_tokens=5, ignore_eos=True, logprobs=0, score_prompt=score_prompt
        ) as generation:
            while not generation.finished:
                generation.step()
            assert len(generation.prompt_scores) == (70 if score_prompt else 0)
            return generation.generated

    assert answer(score_prompt=True) == answer(score_prompt=False)


class _Interrupted(Exception):  # noqa: N818  # stands for a cancellation, which is no error
    pass


@settings(deadline=None, max_examples=15)
@given(length=st.integers(1, 40), at=st.sets(st.integers(0, 30), max_size=5))
def test_an_interrupted_pass_is_made_again(
    model: ElasticModel, expected: list[TokenScore], length: int, at: set[int]
) -> None:
    calls = iter(range(10**6))

    def interrupt() -> None:
        if next(calls) in at:
            raise _Interrupted

    with Generation(model, PROMPT[:length], max_tokens=0, logprobs=TOP, score_prompt=True) as generation:
        while not generation.finished:
            try:
                generation.step(interrupt)
            except _Interrupted:
                assert not generation.decoding
        assert same(model, list(generation.prompt_scores), expected[:length])


def test_few_logits_exist_at_a_time_and_moves_are_possible_between_them(model: ElasticModel) -> None:
    seen: list[tuple[int, int]] = []
    points = 0

    def safe_point() -> None:
        nonlocal points
        points += 1

    def read(position: int, logits: Floats) -> None:
        assert logits.shape[1] == model.config.vocab_size
        seen.append((position, len(logits)))

    sequence = model.new_sequence(400)
    for tokens in (PROMPT[:3], PROMPT[3:103]):
        model.forward([Segment(sequence, np.array(tokens), read)], safe_point)
    model.release(sequence)
    assert [position for position, _ in seen] == [0, *range(3, 103, READ_ROWS)]
    assert sum(rows for _, rows in seen) == 103
    assert max(rows for _, rows in seen) == READ_ROWS
    assert points == 2 * model.config.layers + len(seen)


def test_rows_of_one_segment_are_read_beside_others(model: ElasticModel, expected: list[TokenScore]) -> None:
    collected = PromptScores(PROMPT[:20], TOP)
    sequences = [model.new_sequence(40) for _ in range(3)]
    segments = [Segment(sequence, np.array(PROMPT[:20])) for sequence in sequences]
    segments[1] = Segment(sequences[1], np.array(PROMPT[:20]), collected.read)
    logits = model.forward(segments)
    for sequence in sequences:
        model.release(sequence)
    assert same(model, collected.scores, expected[:20])
    assert np.array_equal(logits[0], logits[1]) or not model._independent_rows
