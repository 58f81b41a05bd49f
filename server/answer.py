"""One request being answered: tokens become text, stop strings are watched for, positions noted."""

from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, Self

from flexquant.engine.backend import Backend
from flexquant.engine.generation import Generation
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.generation_request import Event, Finished, GenerationRequest, Started, Text, Usage
from flexquant.server.stop_strings import StopMatcher


class Cancelled(Exception):  # noqa: N818  # no error: the client went away
    """The request was given up; raised at a safe point."""


class PositionedBackend(Backend, Protocol):
    """A backend that says at which position of its sequence it is."""

    @property
    def position(self) -> int:
        """Position that is published now."""
        ...


class Answer:
    """A request's state on the engine thread; a context manager that gives the sequence's memory back.

    Args:
        request: What is asked for.
        model: Runs it; its position changes at safe points only.
        tokenizer: Turns tokens into text.
        cancelled: Whether the request was given up; asked at every safe point.

    Raises:
        KVExhaustedError: There is no room for prompt and answer.
    """

    def __init__(
        self,
        request: GenerationRequest,
        model: PositionedBackend,
        tokenizer: Tokenizer,
        *,
        cancelled: Callable[[], bool],
    ) -> None:
        self._model = model
        self._cancelled = cancelled
        self._generation = Generation(
            model,
            request.prompt,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            ignore_eos=request.ignore_eos,
        )
        self._text = tokenizer.stream()
        self._stops = StopMatcher(request.stops)
        self._start = self._end = self._worst = model.position
        self.finished = False

    @property
    def decoding(self) -> bool:
        """Whether each further step gives a token."""
        return self._generation.decoding

    def begin(self) -> Started:
        """The first event.

        Raises:
            Cancelled: The request was given up while it waited.
        """
        self._safe_point()
        return Started(self._start)

    def step(self) -> list[Event]:
        """Run one pass of the model, and return what there is to tell.

        Raises:
            Cancelled: The request was given up.
        """
        token = self._generation.step(self._safe_point)
        self._note_position()
        if token is None:
            return []
        ended = self._generation.finished
        text = "" if ended == "stop" else self._stops.push(self._text.push(token))
        if ended is not None and not self._stops.stopped:
            text += self._stops.push(self._text.flush())
        reason: Literal["stop", "length"] | None = "stop" if self._stops.stopped else ended
        if reason is None:
            return [Text(text)] if text else []
        text += self._stops.flush()
        self.finished = True
        return [*([Text(text)] if text else []), Finished(reason, self._usage())]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generation.close()

    def _safe_point(self) -> None:
        if self._cancelled():
            raise Cancelled("the request was given up")
        self._note_position()

    def _note_position(self) -> None:
        self._end = self._model.position
        self._worst = max(self._worst, self._end)

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._generation.prompt_tokens,
            completion_tokens=len(self._generation.generated),
            position_start=self._start,
            position_end=self._end,
            position_worst=self._worst,
        )
