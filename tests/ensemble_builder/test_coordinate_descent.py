"""Choosing codes once more makes a layer better, never worse."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.coordinate_descent import descend
from flexquant.ensemble_builder.row_groups import WIDTHS, groups_of
from flexquant.ensemble_builder.scale_search import dequantize_codes, round_to_codes, search_scales


class Layer:
    """A layer of correlated inputs, rounded to nearest."""

    def __init__(self, bits: int, features: int, columns: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2 * features, features, generator=generator)
        x = x @ torch.randn(features, features, generator=generator)
        self.hessian = x.T @ x / features + torch.eye(features)
        self.weights = 0.02 * torch.randn(features, columns, generator=generator)
        self.groups = groups_of([(bits, features)], 32)
        parts = torch.split(self.weights, 32)
        self.scales = [search_scales(part, torch.ones(32), bits).values for part in parts]
        self.row_scales = torch.cat([scale.expand(32, -1) for scale in self.scales])
        self.signed = round_to_codes(self.weights, self.row_scales, bits)
        self.errors = self.weights - dequantize_codes(self.signed, self.row_scales)

    def descend(self) -> None:
        descend(self.weights, self.hessian, self.groups, self.scales, self.signed, self.errors)

    @property
    def loss(self) -> float:
        return ((self.hessian @ self.errors) * self.errors).double().sum().item()


@given(
    bits=st.sampled_from(WIDTHS),
    features=st.sampled_from([32, 64, 96]),
    columns=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=40)
def test_the_error_never_grows_and_the_codes_stay_in_range(bits: int, features: int, columns: int, seed: int) -> None:
    layer = Layer(bits, features, columns, seed)
    losses = [layer.loss]
    for _ in range(3):
        layer.descend()
        losses.append(layer.loss)
        left = layer.weights - dequantize_codes(layer.signed, layer.row_scales)
        assert torch.allclose(layer.errors, left, atol=1e-6)
        assert layer.signed.min() >= -(1 << (bits - 1))
        assert layer.signed.max() < 1 << (bits - 1)
    for before, after in pairwise(losses):
        assert after <= before * (1 + 1e-3)  # at 8 bits what is left is of the size of float32's own rounding


def test_correlated_inputs_leave_much_to_win() -> None:
    layer = Layer(bits=3, features=96, columns=64, seed=0)
    before = layer.loss
    layer.descend()
    assert layer.loss < 0.7 * before
