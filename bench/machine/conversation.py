"""A conversation that goes on whatever happens to the server: what its user sees of it."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench.prompts import prompt
from bench.server_process import ServerError
from bench.streams import Stream

ANSWER: Final = 96
"""Tokens of an answer: a few seconds."""
_QUESTION: Final = 32
_AGAIN_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its complete answer.

    Args:
        sent: When it was sent for the last time.
        computed: Prompt tokens that the server computed; None if it does not tell.
        new: Prompt tokens that it had not seen in the turn before.
    """

    sent: float
    computed: int | None
    new: int


class Conversation:
    """Asks, reads the answer, asks again with all that was said; after a failure the same once more.

    Args:
        port: Where the server is now; may raise ConnectionError while there is none.
        tokens: That were said before it begins.
        most: Tokens after which all is forgotten but those.
        vocab: Of the model.
    """

    def __init__(self, port: Callable[[], int], tokens: int, most: int, vocab: int) -> None:
        self._port = port
        self._tokens = tokens
        self._most = most
        self._vocab = vocab
        self._enough = threading.Event()
        self.pieces: list[float] = []
        """When each part of an answer arrived, in seconds of `time.monotonic`."""
        self.turns: list[Turn] = []
        self.lost = 0
        """Parts of answers that were cut off."""

    @contextmanager
    def running(self) -> Iterator["Conversation"]:
        """Go on until the context ends."""
        thread = threading.Thread(target=self._run, name="conversation")
        thread.start()
        try:
            yield self
        finally:
            self._enough.set()
            thread.join()

    def _run(self) -> None:
        said, new = prompt(0, self._tokens, self._vocab), self._tokens
        number = 1
        while not self._enough.is_set():
            if not self._ask(said, new):
                time.sleep(_AGAIN_SECONDS)
                continue
            new = ANSWER + _QUESTION
            if len(said) + new + ANSWER > self._most:
                said = said[: self._tokens]
            said = said + prompt(number, new, self._vocab)
            number += 1

    def _ask(self, said: list[int], new: int) -> bool:
        """Whether the answer was complete."""
        body = {"prompt": said, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
        begin = len(self.pieces)
        try:
            with Stream(self._port(), body) as stream:
                complete = self._read(stream)
        except (OSError, http.client.HTTPException):
            complete = False
        if self._enough.is_set():
            return True
        if not complete:
            self.lost += len(self.pieces) - begin
            return False
        computed = None if stream.cached_tokens is None else len(said) - stream.cached_tokens
        self.turns.append(Turn(stream.sent, computed, new))
        return True

    def _read(self, stream: Stream) -> bool:
        """Take the parts of an answer as they arrive; whether it came to its end."""
        seen = 0
        while not self._enough.is_set():
            try:
                stream.wait_for_pieces(seen + 1)
            except ServerError:
                self.pieces += stream.pieces[seen:]
                return stream.tokens == ANSWER
            self.pieces += stream.pieces[seen:]
            seen = len(stream.pieces)
        return False


def computed_again(turns: list[Turn], since: float) -> int | None:
    """Prompt tokens that were computed once more since a time, beyond what every turn before took.

    None if the server does not tell, or no turn was complete before.
    """
    extra = [(turn.sent >= since, turn.computed - turn.new) for turn in turns[1:] if turn.computed is not None]
    calm = [tokens for after, tokens in extra if not after]
    if not calm:
        return None
    usual = max(calm)
    return sum(max(0, tokens - usual) for after, tokens in extra if after)
