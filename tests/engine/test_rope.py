import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.decoder import rotate
from flexquant.engine.rope import RopeTable, inverse_frequencies
from flexquant.engine.rope_settings import Rope

LLAMA3 = Rope(theta=500000.0, kind="llama3", factor=8.0, original_context=8192)
LONGROPE = Rope(
    theta=10000.0, kind="longrope", original_context=4096, factors=tuple(1 + pair / 3 for pair in range(16)), scale=1.25
)
ROPES = [Rope(theta=10000.0), Rope(theta=10000.0, kind="linear", factor=4.0), LLAMA3, LONGROPE]


def test_default_frequencies_are_powers_of_theta() -> None:
    expected = [1.0, 10000 ** (-2 / 8), 10000 ** (-4 / 8), 10000 ** (-6 / 8)]
    assert inverse_frequencies(Rope(theta=10000.0), 8).tolist() == pytest.approx(expected)


def test_linear_scaling_divides_all_frequencies() -> None:
    scaled = inverse_frequencies(Rope(theta=10000.0, kind="linear", factor=4.0), 64)
    assert np.array_equal(scaled, inverse_frequencies(Rope(theta=10000.0), 64) / 4)


def test_llama3_scaling_treats_long_and_short_waves_differently() -> None:
    """The published rule: waves of more than 8192 tokens are stretched 8 times, those below 2048 are kept."""
    plain = inverse_frequencies(Rope(theta=500000.0), 128)
    scaled = inverse_frequencies(LLAMA3, 128)
    waves = 2 * math.pi / plain
    ratio = plain / scaled
    assert np.allclose(ratio[waves < 2048], 1.0)
    assert np.allclose(ratio[waves > 8192], 8.0)
    between = ratio[(waves >= 2048) & (waves <= 8192)]
    assert len(between) > 2
    assert (np.diff(between) > 0).all()
    assert ((between > 1) & (between < 8)).all()


def test_longrope_divides_each_frequency_by_its_factor_and_scales_what_is_turned() -> None:
    plain = inverse_frequencies(Rope(theta=10000.0), 32)
    assert inverse_frequencies(LONGROPE, 32).tolist() == pytest.approx((plain / np.array(LONGROPE.factors)).tolist())
    turned = rotate(torch.ones(2, 1, 32), RopeTable(LONGROPE, 32).rotation(np.array([0, 77])))
    assert turned.norm(dim=-1).flatten().tolist() == pytest.approx([1.25 * math.sqrt(32)] * 2)


@settings(deadline=None, max_examples=30)
@given(half=st.integers(1, 8), rest=st.integers(1, 20), position=st.integers(0, 3000))
def test_features_behind_the_rotated_ones_stay(half: int, rest: int, position: int) -> None:
    x = torch.randn(1, 3, 2 * half + rest, generator=torch.Generator().manual_seed(rest))
    rotation = RopeTable(ROPES[0], 2 * half).rotation(np.array([position]))
    turned = rotate(x, rotation)
    assert torch.equal(turned[..., 2 * half :], x[..., 2 * half :])
    assert torch.equal(turned[..., : 2 * half], rotate(x[..., : 2 * half], rotation))


@settings(deadline=None, max_examples=50)
@given(
    rope=st.sampled_from(ROPES),
    start=st.integers(0, 2000),
    distance=st.integers(0, 2000),
    shift=st.integers(0, 2000),
    seed=st.integers(0, 1000),
)
def test_scores_depend_on_the_distance_alone(rope: Rope, start: int, distance: int, shift: int, seed: int) -> None:
    q, k = torch.randn(2, 1, 3, 32, generator=torch.Generator().manual_seed(seed))
    table = RopeTable(rope, 32)

    def score(query_at: int, key_at: int) -> torch.Tensor:
        turned_q = rotate(q, table.rotation(np.array([query_at])))
        turned_k = rotate(k, table.rotation(np.array([key_at])))
        return (turned_q * turned_k).sum(-1)

    here = score(start + distance, start)
    there = score(start + distance + shift, start + shift)
    assert torch.allclose(here, there, atol=2e-2)


def test_position_zero_turns_nothing_and_others_keep_the_length() -> None:
    x = torch.randn(3, 2, 16)
    turned = rotate(x, RopeTable(ROPES[0], 16).rotation(np.array([0, 1, 77])))
    assert torch.equal(turned[0], x[0])
    assert not torch.allclose(turned[1], x[1], atol=0.1)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)


def test_pairs_are_dimensions_half_a_head_apart() -> None:
    x = torch.zeros(1, 1, 8)
    x[0, 0, 1] = 1.0
    turned = rotate(x, RopeTable(Rope(theta=10000.0), 8).rotation(np.array([3])))[0, 0]
    angle = 3 * 10000 ** (-2 / 8)
    assert turned[1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert turned[5].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert turned.count_nonzero() == 2


@settings(deadline=None, max_examples=50)
@given(positions=st.lists(st.integers(0, 100_000), min_size=1, max_size=300), at=st.integers(0, 299))
def test_a_row_does_not_depend_on_the_others(positions: list[int], at: int) -> None:
    table, at = RopeTable(LLAMA3, 24), at % len(positions)
    together = table.rotation(np.array(positions))
    alone = table.rotation(np.array([positions[at]]))
    assert np.array_equal(together.cos[at], alone.cos[0])
    assert np.array_equal(together.signed_sin[at], alone.signed_sin[0])
