"""Where in an answer's text its tokens begin, so that each is told with the text that it belongs to.

Text is held back while a character is incomplete or a stop string may follow, and tokens are held back with it. An
answer that a stop string ends has the tokens that begin before that string.
"""

from collections import deque
from dataclasses import dataclass

from flexquant.engine.logprobs import TokenScore


@dataclass(frozen=True, slots=True)
class MarkedToken:
    """A token of an answer: its score, and the index of the character of the text at which it begins.

    Tokens that make up one character together all begin where it begins.
    """

    score: TokenScore
    offset: int


class TokenMarks:
    """The tokens of one text."""

    def __init__(self) -> None:
        self._waiting: deque[MarkedToken] = deque()
        self._read = 0
        self._given = 0

    def read(self, score: TokenScore, characters: str) -> None:
        """A token has come, which completed `characters`."""
        self._waiting.append(MarkedToken(score, self._read))
        self._read += len(characters)

    def give(self, text: str) -> tuple[MarkedToken, ...]:
        """`text` goes out: return the tokens that begin in it."""
        self._given += len(text)
        ready = []
        while self._waiting and self._waiting[0].offset < self._given:
            ready.append(self._waiting.popleft())
        return tuple(ready)

    def rest(self) -> tuple[MarkedToken, ...]:
        """The tokens at the end that add no text, for when the answer ended by itself."""
        rest, self._waiting = tuple(self._waiting), deque()
        return rest
