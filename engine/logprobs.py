"""How likely the model found tokens: log-probabilities of its own distribution.

That is the distribution before logit bias, penalties, temperature and the rest of sampling, as OpenAI and vLLM report
it: it says what the model thinks, whatever a request makes of that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flexquant.engine.sampling import not_numbers

LEAST: Final = -9999.0
"""What OpenAI's API says for a token that is next to impossible; JSON has no minus infinity."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token, and what the model gave it and the likeliest tokens in its place."""

    token: int
    logprob: float | None
    """Natural logarithm of its probability, at least LEAST; None for the first token of all, which follows nothing."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with theirs, the likeliest first, the lowest id first among equals."""


def score(logits: npt.NDArray[np.float32], token: int, top: int) -> TokenScore:
    """Score `token` by the logits, f32 [vocab], that it was or could have been chosen from, with `top` alternatives.

    Raises:
        FlexQuantError: The logits are not numbers.
    """
    values = logits.astype(np.float64)
    highest = float(values.max())
    if not math.isfinite(highest):
        raise not_numbers()
    values -= highest
    values -= math.log(np.exp(values).sum())
    likeliest = _likeliest(values, min(top, len(values)))
    return TokenScore(token, _logprob(values, token), tuple((id_, _logprob(values, id_)) for id_ in likeliest))


class PromptScores:
    """Scores of a prompt's tokens, each by the logits after those before it, taken while the prompt goes in.

    Args:
        prompt: Token ids.
        top: Alternatives of each.
    """

    def __init__(self, prompt: Sequence[int], top: int) -> None:
        self.scores = [TokenScore(token, None, ()) for token in prompt]
        """One for each token; all but the first are there when the prompt is in."""
        self._top = top

    def read(self, position: int, logits: npt.NDArray[np.float32]) -> None:
        """Take the logits after the token at `position` and after those that follow it; see `Segment.read`."""
        for place, row in enumerate(logits, position + 1):
            if place < len(self.scores):
                self.scores[place] = score(row, self.scores[place].token, self._top)


def _logprob(values: npt.NDArray[np.float64], token: int) -> float:
    return max(float(values[token]), LEAST)


def _likeliest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Ids of the highest values, without sorting all."""
    if count == 0:
        return []
    candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])
    order = np.argsort(-values[candidates], kind="stable")[:count]
    return [int(id_) for id_ in candidates[order]]
