"""How the next token is chosen from logits.

The order is that of vLLM's sampler (vllm/v1/sample/sampler.py): a constraint's mask; logit bias; repetition, frequency
and presence penalty; temperature; min-p; top-k; top-p. The first five change what greedy choices take, too. What a mask
excludes, nothing that follows sees: top-k, for one, takes the likeliest k of what is allowed.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flexquant.engine.constraint import Constraint
from flexquant.engine.errors import FlexQuantError

Floats = npt.NDArray[np.float64]
_SEEDS: Final = 2**64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the likeliest token, the lowest id among equals.
        top_k: Only tokens at least as likely as the k-th; 0 means all.
        top_p: Of those, only the fewest that together have at least this probability; always one. 1 means all.
        seed: Same seed, same choices. None is a fresh one.
        min_p: Only tokens at least this many times as likely as the likeliest (Nguyen et al., arXiv 2407.01082).
        presence_penalty: Taken from the logit of every token that was generated (OpenAI's definition).
        frequency_penalty: Taken from it once for every time that the token was generated (OpenAI's definition).
        repetition_penalty: Positive logits of tokens of the prompt or the answer are divided by it, others multiplied
            (CTRL, Keskar et al., arXiv 1909.05858, as in transformers and vLLM). 1 means none.
        logit_bias: Token ids, none twice, and what is added to their logits.

    Raises:
        ValueError: A value is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, not {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be from 0 to 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, not {self.min_p}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, not {getattr(self, name)}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if not all(token >= 0 and math.isfinite(bias) for token, bias in self.logit_bias):
            raise ValueError("logit_bias needs token ids and finite numbers")

    @property
    def penalizes(self) -> bool:
        """Whether what was generated changes what comes next."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1


GREEDY: Final = SamplingParams(temperature=0.0)


class Sampler:
    """Chooses the tokens of one sequence.

    Everything after the logits runs in numpy on one thread and in float64, and draws one number per token, so a seed
    gives the same choices on any number of threads.

    Args:
        params: How tokens are chosen.
        prompt: Token ids before the first choice, for the repetition penalty.
        constraint: What the sequence may say, and no other's.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int] = (), constraint: Constraint | None = None
    ) -> None:
        self._params = params
        self._constraint = constraint
        self._bias = _Bias(params.logit_bias) if params.logit_bias else None
        self._penalties = _Penalties(params, prompt) if params.penalizes else None
        # random.Random ignores an int's sign, so seeds are made unsigned.
        self._random = random.Random(None if params.seed is None else params.seed % _SEEDS)

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """Choose a token, which counts as generated from then on.

        Args:
            logits: f32 [vocab], left as they are; -inf excludes a token.

        Raises:
            FlexQuantError: A logit is NaN or +inf, or all are -inf; or the constraint allows no token.
        """
        values: Floats = logits.astype(np.float64)
        if self._constraint is not None:
            self._constraint.mask(values)
        if self._bias is not None:
            self._bias.apply(values)
        if self._penalties is not None:
            self._penalties.apply(values)
        token = self._choose(values)
        if self._penalties is not None:
            self._penalties.count(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _choose(self, values: Floats) -> int:
        likeliest = int(values.argmax())
        if not math.isfinite(values[likeliest]):
            raise not_numbers()
        if self._params.temperature == 0:
            return likeliest
        chances = probabilities(values, self._params)
        totals = chances.cumsum()
        # Rounding must not lift the draw to the total itself, which no token reaches beyond.
        draw = min(self._random.random() * totals[-1], math.nextafter(totals[-1], 0.0))
        return int(totals.searchsorted(draw, side="right"))


class _Bias:
    """What a request adds to the logits of some tokens."""

    def __init__(self, bias: Sequence[tuple[int, float]]) -> None:
        self._tokens = np.array([token for token, _ in bias], np.int64)
        self._values = np.array([value for _, value in bias], np.float64)

    def apply(self, logits: Floats) -> None:
        """Change logits, f64 [vocab], in place."""
        logits[self._tokens] += self._values


class _Penalties:
    """Makes tokens that occurred less likely. Keeps the tokens that occurred, not the vocabulary."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        # Times that a token was generated; those of the prompt alone matter to the repetition penalty only.
        self._counts: dict[int, int] = dict.fromkeys(prompt, 0) if params.repetition_penalty != 1 else {}

    def apply(self, logits: Floats) -> None:
        """Change logits, f64 [vocab], in place."""
        tokens = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
        counts = np.fromiter(self._counts.values(), np.float64, len(self._counts))
        values, penalty = logits[tokens], self._params.repetition_penalty
        if penalty != 1:
            values = np.where(values > 0, values / penalty, values * penalty)
        values -= self._params.frequency_penalty * counts
        values -= self._params.presence_penalty * (counts > 0)
        logits[tokens] = values

    def count(self, token: int) -> None:
        """A token was generated."""
        self._counts[token] = self._counts.get(token, 0) + 1


def not_numbers() -> FlexQuantError:
    """The error for logits that have no probabilities."""
    return FlexQuantError(
        "the model's logits are not numbers, so no token can be chosen",
        hint="The checkpoint may be damaged; `flexquant-build eval` tells which position is.",
    )


def probabilities(logits: Floats, params: SamplingParams) -> Floats:
    """Return chances, up to a common factor, of the tokens that may be chosen; 0 for the others. f64 [vocab].

    Temperature (above 0), then min-p, top-k and top-p. All tokens as likely as the k-th pass top-k; at the edge of
    top-p, lower ids go first among equals.

    Args:
        logits: f64 [vocab], the largest finite.
        params: How tokens are chosen.
    """
    with np.errstate(over="ignore"):  # next to 0, it leaves the likeliest alone
        chances: Floats = np.exp((logits - logits.max()) / params.temperature)
    if params.min_p > 0:
        chances[chances < params.min_p] = 0  # the likeliest has 1
    if 0 < params.top_k < len(chances):
        chances[chances < np.partition(chances, -params.top_k)[-params.top_k]] = 0
    if params.top_p < 1:
        _keep_top_p(chances, params.top_p)
    return chances


def _keep_top_p(chances: Floats, top_p: float) -> None:
    """Set all but the fewest that together have a share of `top_p` to 0."""
    wanted = top_p * chances.sum()
    # Those below this line together have a share of less than 1 - top_p, so they need not be sorted.
    line = (chances.sum() - wanted) / len(chances)
    descending = np.sort(chances[chances >= line])[::-1]
    count = min(int(descending.cumsum().searchsorted(wanted)), len(descending) - 1)
    edge = descending[count]
    equal = np.flatnonzero(chances == edge)
    kept_equal = int((descending[: count + 1] == edge).sum())
    chances[chances < edge] = 0
    chances[equal[kept_equal:]] = 0
