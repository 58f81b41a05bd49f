"""Asks for an answer and hands it on piece by piece."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from flexquant.clients.chat.conversation import Conversation
from flexquant.clients.client import Client
from flexquant.clients.errors import BadRequestError
from flexquant.clients.types import Piece, Usage

NO_TEMPLATE: Final = "no_chat_template"
"""The daemon's word for a model that can only continue text."""
CONTINUATION_TOKENS: Final = 256
"""Most tokens of a continuation where nobody said otherwise: a model without a template seldom comes to an end."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that has ended.

    Args:
        text: All of it.
        stopped: Whether it was stopped from here.
        finish_reason: Why it ended otherwise: "stop", "length", ...
        usage: What it took; None if it was stopped.
        first_s: Seconds until the first piece; None if there was none.
        all_s: Seconds until the end.
    """

    text: str
    stopped: bool
    finish_reason: str | None
    usage: Usage | None
    first_s: float | None
    all_s: float

    @property
    def tokens_per_second(self) -> float | None:
        """From the question to the end, so the prompt is included; None if it cannot be told."""
        return self.usage.completion_tokens / self.all_s if self.usage is not None and self.all_s > 0 else None


class Answering:
    """Has a model answer conversations.

    Args:
        client: Of the daemon.
        fields: Further fields of each request, such as `temperature`.
        notice: Is told, once, that the model has no chat template.
        clock: Steady seconds.
    """

    def __init__(
        self,
        client: Client,
        fields: Mapping[str, Any],
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._fields = fields
        self._notice = notice
        self._clock = clock
        self._templated = True

    def answer(self, conversation: Conversation, show: Callable[[str], None]) -> Answered:
        """Get the next turn of a conversation; Ctrl-C ends it early and tells the daemon to stop computing.

        Args:
            conversation: Ends with what is to be answered.
            show: Is given each piece of text as it comes.

        Raises:
            ClientError: The daemon cannot be asked, or refuses.
        """
        if not self._templated:
            return self._collect(self._continued(conversation), show)
        try:
            return self._collect(self._client.chat(conversation.messages(), stream=True, **self._fields), show)
        except BadRequestError as error:
            if error.code != NO_TEMPLATE:
                raise
        self._templated = False
        self._notice("this model has no chat template: what you write is text that it continues")
        return self._collect(self._continued(conversation), show)

    def _continued(self, conversation: Conversation) -> Generator[Piece, None, None]:
        fields = {"max_tokens": CONTINUATION_TOKENS, **self._fields}
        return self._client.completions(conversation.prompt(), stream=True, **fields)

    def _collect(self, pieces: Generator[Piece, None, None], show: Callable[[str], None]) -> Answered:
        began = self._clock()
        first: float | None = None
        text, stopped, finish_reason, usage = "", False, None, None
        try:
            with closing(pieces):
                for piece in pieces:
                    if first is None:
                        first = self._clock()
                    if piece.text:
                        text += piece.text
                        show(piece.text)
                    finish_reason = piece.finish_reason or finish_reason
                    usage = piece.usage or usage
        except KeyboardInterrupt:
            stopped, usage = True, None
        ended = self._clock()
        return Answered(text, stopped, finish_reason, usage, None if first is None else first - began, ended - began)
