"""How the next token is chosen from logits."""

import math
import random
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

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

    Raises:
        ValueError: A value is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, not {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be from 0 to 1, not {self.top_p}")


GREEDY: Final = SamplingParams(temperature=0.0)


class Sampler:
    """Chooses the tokens of one sequence.

    Everything after the logits runs in numpy on one thread and in float64, and draws one number per token, so a seed
    gives the same choices on any number of threads.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        # random.Random ignores an int's sign, so seeds are made unsigned.
        self._random = random.Random(None if params.seed is None else params.seed % _SEEDS)

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """Choose a token.

        Args:
            logits: f32 [vocab]; -inf excludes a token.

        Raises:
            FlexQuantError: A logit is NaN or +inf, or all are -inf.
        """
        values: Floats = logits.astype(np.float64)
        likeliest = int(values.argmax())
        if not math.isfinite(values[likeliest]):
            raise FlexQuantError(
                "the model's logits are not numbers, so no token can be chosen",
                hint="The checkpoint may be damaged; `flexquant-build eval` tells which position is.",
            )
        if self._params.temperature == 0:
            return likeliest
        chances = probabilities(values, self._params)
        totals = chances.cumsum()
        # Rounding must not lift the draw to the total itself, which no token reaches beyond.
        draw = min(self._random.random() * totals[-1], math.nextafter(totals[-1], 0.0))
        return int(totals.searchsorted(draw, side="right"))


def probabilities(logits: Floats, params: SamplingParams) -> Floats:
    """Return chances, up to a common factor, of the tokens that may be chosen; 0 for the others. f64 [vocab].

    The order is that of Hugging Face's generation: temperature (above 0), then top-k, then top-p. All tokens as likely
    as the k-th pass top-k; at the edge of top-p, lower ids go first among equals.

    Args:
        logits: f64 [vocab], the largest finite.
        params: How tokens are chosen.
    """
    chances: Floats = np.exp((logits - logits.max()) / params.temperature)
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
