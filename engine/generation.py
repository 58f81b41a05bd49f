"""One prompt being continued: the prompt goes in by chunks, then one token a step comes out."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self

import numpy as np

from flexquant.engine.backend import Backend
from flexquant.engine.constraint import Constraint
from flexquant.engine.logprobs import PromptScores, TokenScore, score
from flexquant.engine.prefill import CHUNK_TOKENS, chunks
from flexquant.engine.sampling import GREEDY, Sampler, SamplingParams
from flexquant.engine.segment import Floats, Segment, nothing


class Generation:
    """State of one sequence over a backend; a context manager that gives its memory back.

    `step` does everything. Whoever batches several generations takes each one's `next_segment`, runs them together
    and hands each its row of the logits with `accept`.

    Args:
        backend: Runs the model.
        prompt: Token ids, at least one.
        max_tokens: Most tokens to generate. With 0 the prompt goes in, and that is all.
        sampling: How tokens are chosen.
        ignore_eos: Go on after the model's end-of-sequence tokens.
        chunk: Prompt tokens per step.
        exact: Use only such keys and values of earlier prompts again as were computed at the model's present position.
        logprobs: Score every token that is generated, with so many of the likeliest ones; None scores none.
        score_prompt: Score those of the prompt, too; all of it is computed then.
        constraint: What the answer has to be; used for this sequence alone.

    Raises:
        KVExhaustedError: The backend has no room for prompt and answer.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: SamplingParams = GREEDY,
        ignore_eos: bool = False,
        chunk: int = CHUNK_TOKENS,
        exact: bool = False,
        logprobs: int | None = None,
        score_prompt: bool = False,
        constraint: Constraint | None = None,
    ) -> None:
        if not prompt or max_tokens < 0:
            raise ValueError(f"{len(prompt)} prompt tokens, and at most {max_tokens} to be generated")
        self.prompt_tokens = len(prompt)
        self.generated: list[int] = []
        """Token ids so far; the end-of-sequence token that ended it included."""
        self.finished: Literal["stop", "length"] | None = None
        """Why it ended: an end-of-sequence token or a constraint after which nothing can follow, or `max_tokens`."""
        self.score: TokenScore | None = None
        """Of the latest token; always None without `logprobs`."""
        self._backend = backend
        self._prompt = np.array(prompt, np.int64)
        self._max_tokens = max_tokens
        self._eos_ids = () if ignore_eos else backend.config.eos_ids
        self._chunk = chunk
        self._logprobs = logprobs
        self._constraint = constraint
        self._sampler = Sampler(sampling, prompt, constraint)
        self._prompt_scores = PromptScores(prompt, logprobs or 0) if score_prompt else None
        # What is there already has no logits any more.
        known = None if score_prompt else self._prompt
        # The last token is not fed to the model again.
        self._sequence = backend.new_sequence(len(prompt) + max(max_tokens - 1, 0), known, exact=exact)
        self.cached_tokens = self._sequence.cached_tokens
        """Tokens of the prompt whose keys and values were there already."""

    @property
    def prompt_scores(self) -> Sequence[TokenScore]:
        """One for each token of the prompt, once it is in; empty without `score_prompt`."""
        return self._prompt_scores.scores if self._prompt_scores else ()

    @property
    def decoding(self) -> bool:
        """Whether the prompt is done but for its last pass, so that each further step gives a token."""
        return self._sequence.length >= self.prompt_tokens

    @property
    def at_end_token(self) -> bool:
        """Whether the latest token is an end-of-sequence token that ended it, and no part of its text."""
        return bool(self.generated) and self.generated[-1] in self._eos_ids

    def step(self, safe_point: Callable[[], None] = nothing) -> int | None:
        """Run one pass of the model.

        Args:
            safe_point: Called before each layer. If it raises, nothing has changed: the step can be made again.

        Returns:
            The next token; None while the prompt is still going in, and with `max_tokens` 0.
        """
        return self.accept(self._backend.forward([self.next_segment()], safe_point)[0])

    def next_segment(self) -> Segment:
        """Return what the next pass has to append to the sequence."""
        if self.finished:
            raise RuntimeError(f"the generation is finished ({self.finished})")
        chunk = next(chunks(self._sequence.length, self.prompt_tokens, self._chunk), None)
        if chunk is None:
            return Segment(self._sequence, np.array(self.generated[-1:], np.int64))
        read = None if self._prompt_scores is None else self._prompt_scores.read
        return Segment(self._sequence, self._prompt[chunk.start : chunk.stop], read)

    def accept(self, logits: Floats) -> int | None:
        """Take the logits, f32 [vocab], of a pass with `next_segment`. Returns as `step` does."""
        if self._sequence.length < self.prompt_tokens:
            return None
        if not self.generated:
            self._keep()
        if self._max_tokens == 0:
            self.finished = "length"
            return None
        token = self._sampler.sample(logits)
        self.generated.append(token)
        if self._logprobs is not None:
            self.score = score(logits, token, self._logprobs)
        if self.at_end_token or (self._constraint is not None and self._constraint.finished):
            self.finished = "stop"
        elif len(self.generated) == self._max_tokens:
            self.finished = "length"
        return token

    def close(self) -> None:
        """Give the sequence's memory back, but for what later prompts can use. Closing twice is allowed."""
        self._keep()
        self._backend.release(self._sequence)

    def _keep(self) -> None:
        tokens = np.concatenate([self._prompt, np.array(self.generated, np.int64)])
        self._backend.keep(self._sequence, tokens, self.prompt_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
