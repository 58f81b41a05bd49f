"""What the HTTP side asks of the engine thread, and what it hears back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flexquant.engine.constraint import Constraint
from flexquant.engine.sampling import SamplingParams
from flexquant.server.api_error import ApiError
from flexquant.server.token_marks import MarkedToken


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to be continued.

    Args:
        prompt: Token ids, BOS included; at least one.
        max_tokens: Most tokens to generate, or 0; prompt and answer together fit the context.
        sampling: How tokens are chosen.
        stops: Strings that end the answer.
        ignore_eos: Go on after the end-of-sequence token.
        exact: Use only such keys and values of earlier prompts again as were computed at the model's present position.
        logprobs: Score every token of the answer, with so many of the likeliest ones; None scores none.
        echo: The answer begins with the prompt.
        continues: The answer goes on in the prompt's text, and is no text of its own.
        spelled_tokens: Special tokens that are told as text, spelled as in the vocabulary.
        constraint: What the answer has to be; no other request's, for it follows the answer.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: SamplingParams
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    exact: bool = False
    logprobs: int | None = None
    echo: bool = False
    continues: bool = False
    spelled_tokens: frozenset[int] = frozenset()
    constraint: Constraint | None = None

    @property
    def most_tokens(self) -> int:
        """Tokens that the sequence may come to hold: the last one generated is not fed to the model again."""
        return len(self.prompt) + max(self.max_tokens - 1, 0)

    @property
    def scores_prompt(self) -> bool:
        """Whether every token is scored: all of the prompt, which has to be computed then, and the end of sequence."""
        return self.echo and self.logprobs is not None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took, and at which positions of the sequence it was computed (larger is worse)."""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, those whose keys and values were there from an earlier request."""
    completion_tokens: int
    position_start: int
    position_end: int
    position_worst: int


@dataclass(frozen=True, slots=True)
class Started:
    """The request's turn has come; the model is at `position`, and `cached_tokens` of the prompt are there already."""

    position: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """The next part of the answer, and the tokens that begin in it if they are scored; never empty of both."""

    text: str
    tokens: tuple[MarkedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete. `reason` is "length" when max_tokens or the context ended it."""

    reason: Literal["stop", "length"]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Cut:
    """The sequence will not be finished; Failed follows and says why."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends early with an error."""

    error: ApiError


Event = Started | Text | Finished | Cut | Failed
"""Started, any number of Text, Finished; Cut of what was begun, then Failed, may take the place of what is left."""
