"""The requests of the serve suite to one server, the same ones to each."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench.figures import rate_together
from bench.prompts import prompt
from bench.scale import Scale
from bench.server_process import Server
from bench.streams import Stream


class Client:
    """Sends token ids, at temperature 0, and asks for answers of a fixed length.

    Args:
        scale: Sizes.
        started: The server; it must be ready.
        numbers: Of prompts that were not sent to any server yet.
    """

    def __init__(self, scale: Scale, started: Server, numbers: Iterator[int]) -> None:
        self._scale = scale
        self._port = started.port
        self._numbers = numbers

    def fresh(self, tokens: int) -> list[int]:
        """A prompt that no server has seen."""
        return prompt(next(self._numbers), tokens, self._scale.shape.vocab)

    def stream(self, ids: Sequence[int], tokens: int) -> Stream:
        """Ask for an answer of so many tokens."""
        return Stream(self._port, {"prompt": list(ids), "max_tokens": tokens, "temperature": 0, "ignore_eos": True})

    @contextmanager
    def running(self, streams: int, tokens: int) -> Iterator[list[Stream]]:
        """Begin answers to fresh short prompts, all at once; what still runs in the end is cancelled."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(self.stream(self.fresh(self._scale.prompt_tokens), tokens)) for _ in range(streams)
            ]

    def rate(self, streams: int) -> float:
        """Tokens per second of so many streams together, while all of them are between first and last token."""
        with self.running(streams, self._scale.answer_tokens) as running:
            tokens = [stream.finish() for stream in running]
            return rate_together([(stream.pieces, own) for stream, own in zip(running, tokens, strict=True)])

    def first_token(self, ids: Sequence[int]) -> float:
        """Seconds from sending a prompt to the first part of its answer."""
        with self.stream(ids, 1) as stream:
            stream.finish()
            return stream.first - stream.sent
