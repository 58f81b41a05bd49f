import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexquant.engine.errors import FlexQuantError
from flexquant.engine.sampling import GREEDY, Sampler, SamplingParams, probabilities

INF = math.inf
# Multiples of 1/16, so that ties occur and adding an integer is exact.
LOGITS = st.lists(st.integers(-160, 160).map(lambda n: n / 16) | st.just(-INF), min_size=1, max_size=60).filter(
    lambda values: max(values) > -INF
)
PARAMS: st.SearchStrategy[SamplingParams] = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 4),
    top_k=st.integers(0, 70),
    top_p=st.floats(0, 1),
    min_p=st.just(0.0) | st.floats(0, 1),
    seed=st.integers(-(2**70), 2**70),
)
PENALTIES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "presence_penalty": st.integers(-8, 8).map(lambda n: n / 4),
        "frequency_penalty": st.integers(-8, 8).map(lambda n: n / 4),
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.25, 2.0]),
        "logit_bias": st.dictionaries(st.integers(0, 5), st.integers(-100, 100).map(float)).map(
            lambda bias: tuple(bias.items())
        ),
    },
)


def row(logits: list[float]) -> NDArray[np.float32]:
    """As a pass gives it: f32 [vocab]."""
    return np.array(logits, np.float32)


def chances(logits: list[float], **params: Any) -> list[float]:
    """Probabilities by the code under test."""
    found = probabilities(np.array(logits), SamplingParams(**params))
    return list(found / found.sum())


def expected_support(logits: list[float], params: SamplingParams) -> set[int]:
    """Which tokens may be chosen, by the definition, with sorts and loops."""
    highest = max(logits)
    weights = [math.exp((logit - highest) / params.temperature) for logit in logits]
    weights = [weight if weight >= params.min_p else 0 for weight in weights]
    order = sorted((token for token in range(len(logits)) if weights[token] > 0), key=lambda token: -weights[token])
    if params.top_k:
        order = [token for token in order if weights[token] >= weights[order[: params.top_k][-1]]]
    if params.top_p == 1:
        return set(order)
    total, kept, reached = math.fsum(weights[token] for token in order), set(), 0.0
    for token in order:
        kept.add(token)
        reached += weights[token]
        if reached >= params.top_p * total:
            break
    return kept


@settings(deadline=None)
@given(logits=LOGITS)
def test_greedy_takes_the_likeliest_and_of_equals_the_lowest(logits: list[float]) -> None:
    assert Sampler(GREEDY).sample(row(logits)) == logits.index(max(logits))


@settings(deadline=None, max_examples=300)
@given(logits=LOGITS, params=PARAMS)
def test_the_support_is_that_of_the_definition(logits: list[float], params: SamplingParams) -> None:
    support = set(np.flatnonzero(probabilities(np.array(logits), params)).tolist())
    expected = expected_support(logits, params)
    if support != expected:  # a cumulative sum within rounding of top_p may fall on either side
        assert abs(len(support) - len(expected)) == 1
        before = chances(logits, temperature=params.temperature, top_k=params.top_k, min_p=params.min_p)
        total = sum(before[token] for token in support)
        assert total == pytest.approx(params.top_p, abs=1e-9) or len(support) > len(expected)


@settings(deadline=None, max_examples=200)
@given(logits=LOGITS, params=PARAMS)
def test_a_choice_is_in_the_support(logits: list[float], params: SamplingParams) -> None:
    allowed = probabilities(np.array(logits), params) > 0
    sampler = Sampler(params)
    assert all(allowed[sampler.sample(row(logits))] for _ in range(20))


@settings(deadline=None, max_examples=100)
@given(logits=LOGITS, params=PARAMS, constant=st.integers(-100, 100))
def test_a_constant_added_to_the_logits_changes_nothing(
    logits: list[float], params: SamplingParams, constant: int
) -> None:
    here, there = Sampler(params), Sampler(params)
    first = [here.sample(row(logits)) for _ in range(10)]
    assert first == [there.sample(row(logits) + np.float32(constant)) for _ in range(10)]


@settings(deadline=None)
@given(logits=LOGITS, params=PARAMS)
def test_same_seed_same_choices(logits: list[float], params: SamplingParams) -> None:
    here, there = Sampler(params), Sampler(params)
    assert [here.sample(row(logits)) for _ in range(10)] == [there.sample(row(logits)) for _ in range(10)]


def adjusted(logits: list[float], params: SamplingParams, prompt: list[int], generated: list[int]) -> list[float]:
    """The logits after bias and penalties, by the definitions, token by token."""
    found = []
    for token, logit in enumerate(logits):
        logit += dict(params.logit_bias).get(token, 0.0)
        if token in prompt or token in generated:
            logit = logit / params.repetition_penalty if logit > 0 else logit * params.repetition_penalty
        logit -= params.frequency_penalty * generated.count(token)
        logit -= params.presence_penalty * (token in generated)
        found.append(logit)
    return found


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(st.lists(st.integers(-40, 40).map(lambda n: n / 16), min_size=6, max_size=6), max_size=12),
    prompt=st.lists(st.integers(0, 5), max_size=8),
    penalties=PENALTIES,
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_bias_and_penalties_are_those_of_the_definitions(
    rows: list[list[float]], prompt: list[int], penalties: dict[str, Any], temperature: float
) -> None:
    """Beside a sampler without them, with the same seed, that gets logits which the reference has changed."""
    params = SamplingParams(temperature=temperature, seed=7, **penalties)
    sampler, plain = Sampler(params, prompt), Sampler(SamplingParams(temperature=temperature, seed=7))
    generated: list[int] = []
    for logits in rows:
        given_row = row(logits)
        token = sampler.sample(given_row)
        expected = np.array(adjusted(logits, params, prompt, generated))
        assert token == plain.sample(expected)
        assert given_row.tolist() == logits, "the caller's logits stay"
        generated.append(token)


def test_a_repetition_penalty_counts_the_prompt_and_the_others_do_not() -> None:
    logits = row([1.0, 0.9, -5.0])
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=2), [0]).sample(logits) == 1
    assert Sampler(SamplingParams(temperature=0, presence_penalty=2, frequency_penalty=2), [0]).sample(logits) == 0


def test_a_frequency_penalty_grows_and_a_presence_penalty_does_not() -> None:
    def answers(**penalty: float) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=0, **penalty))  # type: ignore[arg-type]
        return [sampler.sample(row([1.0, 0.0])) for _ in range(6)]

    assert answers(frequency_penalty=0.4) == [0, 0, 0, 1, 0, 1]
    assert answers(presence_penalty=0.4) == [0] * 6


def test_min_p_is_a_share_of_the_likeliest() -> None:
    logits = [math.log(chance) for chance in (0.4, 0.3, 0.2, 0.1)]
    assert chances(logits, min_p=0.49) == pytest.approx([4 / 9, 3 / 9, 2 / 9, 0])
    assert chances(logits, min_p=1.0) == pytest.approx([1, 0, 0, 0])
    assert chances(logits, min_p=0.49, top_p=0.5) == pytest.approx([4 / 7, 3 / 7, 0, 0])


class Only:
    """A constraint that allows these tokens, and notes which were taken."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed
        self.taken: list[int] = []
        self.finished = False

    def mask(self, logits: NDArray[np.float64]) -> None:
        logits[[token for token in range(len(logits)) if token not in self.allowed]] = -INF

    def accept(self, token: int) -> None:
        self.taken.append(token)


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.integers(-40, 40).map(lambda n: n / 16), min_size=6, max_size=6),
    allowed=st.sets(st.integers(0, 5), min_size=1),
    params=PARAMS,
    penalties=PENALTIES,
)
def test_a_constraint_comes_first(
    logits: list[float], allowed: set[int], params: SamplingParams, penalties: dict[str, Any]
) -> None:
    """All that follows sees the allowed tokens alone, as if the model had given the others no chance."""
    params = replace(params, **penalties)
    constraint = Only(*allowed)
    sampler, plain = Sampler(params, [0, 1], constraint), Sampler(params, [0, 1])
    left = [logit if token in allowed else -INF for token, logit in enumerate(logits)]
    taken = [sampler.sample(row(logits)) for _ in range(8)]
    assert taken == [plain.sample(row(left)) for _ in range(8)]
    assert set(taken) <= allowed
    assert constraint.taken == taken


def draws(seed: int | None) -> list[int]:
    sampler = Sampler(SamplingParams(seed=seed))
    return [sampler.sample(np.zeros(1000, np.float32)) for _ in range(20)]


def test_seeds_differ_and_no_seed_is_a_fresh_one() -> None:
    runs = [draws(0), draws(1), draws(-1), draws(2**64 - 2), draws(None), draws(None)]
    assert len({tuple(run) for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("params", "logits"),
    [
        (SamplingParams(seed=1), [0.0, 1.0, 2.0, -1.0, 0.5]),
        (SamplingParams(seed=2, temperature=0.5), [0.0, 1.0, 2.0, -1.0, 0.5]),
        (SamplingParams(seed=3, temperature=3.0, top_k=3), [0.0, 1.0, 2.0, -1.0, 0.5]),
        (SamplingParams(seed=4, top_p=0.8), [0.0, 1.0, 2.0, -1.0, 0.5]),
        (SamplingParams(seed=5, top_k=4, top_p=0.9, temperature=2.0), [0.0, 1.0, 2.0, -INF, 0.5]),
    ],
)
def test_frequencies_follow_the_probabilities(params: SamplingParams, logits: list[float]) -> None:
    """Chi-square against softmax(logits / temperature) renormalised over the definition's support."""
    support = sorted(expected_support(logits, params))
    weights = {token: math.exp(logits[token] / params.temperature) for token in support}
    count, total = 20_000, sum(weights.values())
    sampler = Sampler(params)
    seen = Counter(sampler.sample(row(logits)) for _ in range(count))
    assert set(seen) <= set(support)
    chi_square = sum(
        (seen[token] - count * weight / total) ** 2 / (count * weight / total) for token, weight in weights.items()
    )
    # 99.9 % quantiles of chi-square for 1..4 degrees of freedom.
    assert chi_square < {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5}[len(support) - 1]


def test_top_p_is_the_smallest_set_that_reaches_it() -> None:
    logits = [math.log(chance) for chance in (0.1, 0.4, 0.3, 0.2)]
    for top_p, kept in [
        (0.0, {1}),
        (0.3, {1}),
        (0.41, {1, 2}),
        (0.69, {1, 2}),
        (0.71, {1, 2, 3}),
        (0.95, {0, 1, 2, 3}),
    ]:
        assert set(np.flatnonzero(chances(logits, top_p=top_p))) == kept


def test_equal_tokens_at_the_edge() -> None:
    assert chances([1.0, 1.0, 1.0, 1.0], top_k=2) == [0.25] * 4
    assert chances([1.0, 1.0, 1.0, 1.0], top_p=0.4) == [0.5, 0.5, 0, 0]


def test_top_p_counts_within_top_k() -> None:
    logits = [math.log(chance) for chance in (0.4, 0.3, 0.2, 0.1)]
    assert chances(logits, top_k=2, top_p=0.56) == pytest.approx([1, 0, 0, 0])
    assert chances(logits, top_k=2, top_p=0.58) == pytest.approx([4 / 7, 3 / 7, 0, 0])


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(seed=0, top_k=2, top_p=0.9)])
@pytest.mark.parametrize("logits", [[0.0, math.nan, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]])
def test_logits_that_are_no_numbers_are_an_error(params: SamplingParams, logits: list[float]) -> None:
    with pytest.raises(FlexQuantError, match="logits are not numbers"):
        Sampler(params).sample(row(logits))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", INF),
        ("top_k", -1),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("presence_penalty", INF),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0),
        ("repetition_penalty", INF),
        ("logit_bias", ((-1, 0.0),)),
        ("logit_bias", ((0, math.nan),)),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]  # mypy cannot see which field it is


def test_a_tiny_temperature_is_greedy() -> None:
    assert Sampler(SamplingParams(temperature=1e-300, seed=0)).sample(row([0.0, 3.0, 2.9])) == 1


def test_smallest_temperature_takes_the_likeliest() -> None:
    logits = np.array([1.0, 3.0, -2.0], np.float32)
    assert Sampler(SamplingParams(temperature=5e-324, seed=1)).sample(logits) == 1
