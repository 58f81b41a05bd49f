"""Rounding activations to int8 where it is hardest: the inputs of down_proj and o_proj in a model that was trained."""

from collections import defaultdict
from functools import cache

import pytest
import torch
from torch import Tensor

from flexquant.engine.attention import CausalAttention
from flexquant.engine.decoder import Decoder
from support.levels_of_docs_llama import LEVELS, checkpoint, layer_at, windows
from support.native_layers import KERNELS, NativeLayer, Product, needs_native, using

pytestmark = needs_native

TOKENS = 256


class Recording:
    """Weights that keep what their matrices are given."""

    def __init__(self) -> None:
        self.config, self._weights = checkpoint()
        self.inputs: dict[str, list[Tensor]] = defaultdict(list)

    def embed(self, tokens: Tensor) -> Tensor:
        return self._weights.embed(tokens)

    def norm(self, key: str) -> Tensor:
        return self._weights.norm(key)

    def linear(self, key: str, x: Tensor) -> Tensor:
        self.inputs[key].append(x.clone())
        return self._weights.linear(key, x)


@cache
def inputs() -> dict[str, Tensor]:
    """Inputs of every matrix over one window of the validation text: f32 [TOKENS, K]."""
    weights = Recording()
    decoder = Decoder(weights.config, weights)
    (tokens,) = windows(1, TOKENS)
    hidden = weights.embed(tokens)
    for layer in range(weights.config.layers):
        hidden = decoder.layer(layer, hidden, torch.arange(TOKENS), CausalAttention(TOKENS))
    return {key: torch.cat(rows) for key, rows in weights.inputs.items()}


@pytest.mark.parametrize("kernels", KERNELS[:1])
@pytest.mark.parametrize("linear", ["self_attn.o_proj", "mlp.down_proj"])
@pytest.mark.parametrize("level", LEVELS)
def test_errors_on_the_inputs_of_a_trained_model(kernels: str, level: str, linear: str) -> None:
    """In every layer, against fp32(code - zero) * fp32(scale) and activations in fp32: 1 % with int8, 1e-5 without."""
    config, _ = checkpoint()
    errors, outliers = [], []
    for number in range(config.layers):
        key = f"model.layers.{number}.{linear}"
        x, tensors = inputs()[key], layer_at(level, key)
        with using(kernels):
            native = NativeLayer(tensors, config.hidden_size)
            product = Product(tensors, config.hidden_size, x)
            errors.append([product.error(native.multiply(x, exact=exact)) for exact in (False, True)])
        outliers.append(float(x.abs().amax(dim=1).div(x.square().mean(dim=1).sqrt()).max()))
    rounded, exact = zip(*errors, strict=True)
    shown = " ".join(f"{error:.2e}" for error in rounded)
    print(f"\n{linear} at {level} bits: {shown} by layer with int8 activations, at most {max(exact):.1e} without")  # noqa: T201  # for -s
    print(f"  largest activation over the root mean square of its row: {' '.join(f'{x:.0f}' for x in outliers)}")  # noqa: T201  # the same
    assert max(exact) <= 1e-5
    assert max(rounded) <= 1e-2
