"""One sequence of a request being answered: tokens become text, stop strings are watched for, positions noted."""

from collections.abc import Sequence
from typing import Literal, Protocol

from flexquant.engine.backend import Backend
from flexquant.engine.generation import Generation
from flexquant.engine.logprobs import TokenScore
from flexquant.engine.segment import Floats, Segment
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.generation_request import Event, Finished, GenerationRequest, Started, Text, Usage
from flexquant.server.stop_strings import StopMatcher
from flexquant.server.token_marks import TokenMarks


class PositionedBackend(Backend, Protocol):
    """A backend that says at which position of its sequence it is."""

    @property
    def position(self) -> int:
        """Position that is published now."""
        ...


class Answer:
    """State of one sequence on the engine thread, from its admission to `close`.

    Args:
        request: What is asked for.
        model: Will run it; its position changes at safe points only.
        tokenizer: Turns tokens into text.

    Raises:
        KVExhaustedError: There is no room for prompt and answer.
    """

    def __init__(self, request: GenerationRequest, model: PositionedBackend, tokenizer: Tokenizer) -> None:
        self._model = model
        self._generation = Generation(
            model,
            request.prompt,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            ignore_eos=request.ignore_eos,
            exact=request.exact,
            logprobs=request.logprobs,
            score_prompt=request.scores_prompt,
            constraint=request.constraint,
        )
        self._echo = request.prompt if request.echo else ()
        self._scores_all = request.scores_prompt
        # A constraint is one on the text as it is, and what goes on in a text begins with the model's own space. Of an
        # echoed prompt, the tokenizer's space is no part.
        as_it_is = request.constraint is not None or request.continues
        self._text = tokenizer.stream(spelled=request.spelled_tokens, verbatim=as_it_is and not request.echo)
        self._stops = StopMatcher(request.stops)
        self._marks = TokenMarks()
        self._start = self._end = self._worst = model.position
        self.finished = False

    @property
    def decoding(self) -> bool:
        """Whether the prompt is in, so that each further pass gives a token."""
        return self._generation.decoding

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those whose keys and values were there already."""
        return self._generation.cached_tokens

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self._generation.generated)

    def begin(self) -> Started:
        """The first event."""
        return Started(self._start, self._generation.cached_tokens)

    def next_segment(self) -> Segment:
        """What the next pass has to append to the sequence."""
        return self._generation.next_segment()

    def accept(self, logits: Floats) -> list[Event]:
        """Take the logits, f32 [vocab], of a pass with `next_segment`; returns what there is to tell.

        Raises:
            FlexQuantError: No token can be chosen from them.
        """
        token = self._generation.accept(logits)
        self.note_position()
        ended = self._generation.finished
        if token is None and ended is None:
            return []
        text = self._read_prompt()
        if token is not None and not self._generation.at_end_token:
            text += self._stops.push(self._read(token, self._generation.score))
        elif self._scores_all and self._generation.score is not None:
            self._marks.read(self._generation.score, "")
        if ended is not None and not self._stops.stopped:
            text += self._stops.push(self._text.flush())
        reason: Literal["stop", "length"] | None = "stop" if self._stops.stopped else ended
        if reason is not None:
            text += self._stops.flush()
            self.finished = True
        tokens = self._marks.give(text)
        if self.finished and not self._stops.stopped:
            tokens += self._marks.rest()
        events: list[Event] = [Text(text, tokens)] if text or tokens else []
        return events if reason is None else [*events, Finished(reason, self.usage)]

    def _read_prompt(self) -> str:
        """What is echoed, once; stop strings are not looked for in it."""
        prompt, self._echo = self._echo, ()
        scores: Sequence[TokenScore | None] = self._generation.prompt_scores or [None] * len(prompt)
        return "".join(map(self._read, prompt, scores))

    def _read(self, token: int, score: TokenScore | None) -> str:
        """The characters that `token` completes."""
        characters = self._text.push(token)
        if score is not None:
            self._marks.read(score, characters)
        return characters

    def note_position(self) -> None:
        """The model computes for this answer where it is now."""
        self._end = self._model.position
        self._worst = max(self._worst, self._end)

    def close(self) -> None:
        """Give the sequence's memory back. Closing twice is allowed."""
        self._generation.close()

    @property
    def usage(self) -> Usage:
        """What the answer took so far."""
        return Usage(
            prompt_tokens=self._generation.prompt_tokens,
            cached_tokens=self._generation.cached_tokens,
            completion_tokens=len(self._generation.generated),
            position_start=self._start,
            position_end=self._end,
            position_worst=self._worst,
        )
