"""Quality of a model with other decoder linears, window by window, by the builder's evaluation protocol."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.quantizers.bootstrap import Interval, mean_interval, ratio_interval
from flexquant.engine.decoder import Decoder
from flexquant.engine.model_config import HEAD, read_model_config
from flexquant.engine.weights import Weights
from flexquant.ensemble_builder.eqm import HybridWeights
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure
from flexquant.ensemble_builder.evaluation_setup import unquantized


@dataclass(frozen=True, slots=True)
class WindowQuality:
    """Figures of every window; all windows predict the same number of tokens.

    Args:
        surprise: Mean negative log-likelihood of a token, in nats.
        kl: Mean KL divergence from the unquantized model, in nats per token.
    """

    surprise: tuple[float, ...]
    kl: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        """Of all windows."""
        return math.exp(math.fsum(self.surprise) / len(self.surprise))

    @property
    def mean_kl(self) -> float:
        """Of all windows."""
        return math.fsum(self.kl) / len(self.kl)

    @property
    def perplexity_interval(self) -> Interval:
        """95 % interval over windows."""
        low, high = mean_interval(self.surprise)
        return math.exp(low), math.exp(high)

    @property
    def kl_interval(self) -> Interval:
        """95 % interval over windows."""
        return mean_interval(self.kl)

    def perplexity_over(self, other: Self) -> tuple[float, Interval]:
        """Perplexity over another model's, with the 95 % interval over windows that both share."""
        low, high = mean_interval([here - there for here, there in zip(self.surprise, other.surprise, strict=True)])
        return self.perplexity / other.perplexity, (math.exp(low), math.exp(high))

    def kl_over(self, other: Self) -> tuple[float, Interval]:
        """Mean KL over another model's, with the 95 % interval over windows that both share."""
        return self.mean_kl / other.mean_kl, ratio_interval(self.kl, other.kl)


class Bench:
    """Measures models on the windows of a text.

    Args:
        checkpoint: The unquantized model.
        windows: The text.
    """

    def __init__(self, checkpoint: Path, windows: Windows) -> None:
        self._config = read_model_config(checkpoint)
        self._windows = windows
        dense = unquantized(checkpoint, self._config)
        self._dense = dense.weights
        self._reference = Reference.of(dense, windows)

    def unquantized(self) -> WindowQuality:
        """The unquantized model's figures."""
        return self._quality(self._reference.decoder)

    def with_linears(self, weights: Weights) -> WindowQuality:
        """Figures of the model whose decoder linears are those of `weights`; all else is the unquantized model's."""
        level_of = {shape.key: "other" for shape in self._config.linears()} | {HEAD: "unquantized"}
        stores: Mapping[str, Weights] = {"unquantized": self._dense, "other": weights}
        return self._quality(Decoder(self._config, HybridWeights(stores, level_of)))

    def _quality(self, decoder: Decoder) -> WindowQuality:
        hidden = final_hidden(decoder, self._windows)
        found = []
        for at in range(len(hidden)):
            window = Windows(self._windows.tokens[at : at + 1], self._windows.text)
            reference = Reference(self._reference.decoder, self._reference.hidden[at : at + 1])
            found.append(measure(decoder, hidden[at : at + 1], window, reference))
        surprise = tuple(math.log(quality.perplexity) for quality in found)
        return WindowQuality(surprise, tuple(quality.kl for quality in found))
