"""Choosing codes once more makes a layer better, never worse."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.coordinate_descent import descend
from flexquant.ensemble_builder.exl2_pack import WIDTHS, groups_of
from flexquant.ensemble_builder.scale_search import dequantize_codes, round_to_codes, search_scales


@given(
    bits=st.sampled_from(WIDTHS),
    features=st.sampled_from([32, 64, 96]),
    columns=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=40)
def test_the_error_falls_and_stays_consistent(bits: int, features: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = 0.02 * torch.randn(features, columns, generator=generator)
    x = torch.randn(2 * features, features, generator=generator) @ torch.randn(features, features, generator=generator)
    hessian = x.T @ x / features + torch.eye(features)
    groups = groups_of([(bits, features)], 32)
    scales = [search_scales(weights[g.start : g.start + g.rows], torch.ones(g.rows), bits).values for g in groups]
    signed = torch.cat(
        [round_to_codes(part, scale, bits) for part, scale in zip(weights.split(32), scales, strict=True)]
    )
    all_scales = torch.cat([scale.expand(32, -1) for scale in scales])
    errors = weights - dequantize_codes(signed, all_scales)

    def loss() -> float:
        return ((hessian @ errors) * errors).double().sum().item()

    losses = [loss()]
    for _ in range(3):
        descend(weights, hessian, groups, scales, signed, errors)
        losses.append(loss())
        assert torch.allclose(errors, weights - dequantize_codes(signed, all_scales), atol=1e-6)
        assert signed.min() >= -(1 << (bits - 1))
        assert signed.max() < 1 << (bits - 1)
    for before, after in pairwise(losses):
        assert after <= before * (1 + 1e-4)
    if bits <= 4:
        assert losses[-1] < 0.9 * losses[0]
