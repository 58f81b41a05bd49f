"""Quality of a model window by window, so that means come with intervals and two models are compared in pairs. Pure."""

import math
from dataclasses import dataclass
from typing import Self

from flexquant.ensemble_builder.bootstrap import Interval, mean_interval, ratio_interval


@dataclass(frozen=True, slots=True)
class WindowQuality:
    """Figures of every window; all windows predict the same number of tokens.

    Args:
        surprise: Mean negative log-likelihood of a token, in nats.
        kl: Mean KL divergence from the reference, in nats per token.
        right: Share of tokens that were the most probable ones.
    """

    surprise: tuple[float, ...]
    kl: tuple[float, ...]
    right: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        """Of all windows."""
        return math.exp(math.fsum(self.surprise) / len(self.surprise))

    @property
    def mean_kl(self) -> float:
        """Of all windows."""
        return math.fsum(self.kl) / len(self.kl)

    @property
    def accuracy(self) -> float:
        """Share of all tokens that were the most probable ones."""
        return math.fsum(self.right) / len(self.right)

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
