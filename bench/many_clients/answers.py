"""What a complete and valid answer is, and what a refusal is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bench.many_clients.asks import CHAT, Ask, Refusal, Served

UNAVAILABLE: Final = ("queue_full", "kv_cache_exhausted", "memory_short", "memory_critical")
"""Codes of a 503 that a client must be ready for while the daemon runs."""


class WrongAnswerError(Exception):
    """An answer is not what the API promises."""


def _check(condition: bool, what: str, found: object = None) -> None:
    if not condition:
        raise WrongAnswerError(f"{what}: {found!r:.300}")


@dataclass(slots=True)
class Choice:
    """One choice of an answer, as far as it was heard."""

    text: str = ""
    reason: str | None = None


@dataclass(slots=True)
class Answer:
    """An answer as far as it was heard; `finish` checks that it is complete.

    Args:
        ask: What was asked for.
        served: Of whom.
    """

    ask: Ask
    served: Served
    choices: list[Choice] = field(init=False)
    usage: Mapping[str, Any] | None = None
    fingerprint: str = ""
    _id: str | None = None
    _chunks: int = 0

    def __post_init__(self) -> None:
        self.choices = [Choice() for _ in range(self.ask.sequences)]

    @property
    def all_at_best(self) -> bool:
        """Whether all of it was computed at position 0."""
        return self.usage is not None and self.usage["flexquant"]["position_worst"] == 0

    @property
    def texts(self) -> list[str]:
        """Of all choices."""
        return [choice.text for choice in self.choices]

    def whole(self, content: bytes) -> None:
        """Take an answer that is not streamed.

        Raises:
            WrongAnswerError: It is not valid.
        """
        data = _json(content)
        chat = self.ask.path == CHAT
        self._frame(data, "chat.completion" if chat else "text_completion")
        _check([choice["index"] for choice in data["choices"]] == list(range(len(self.choices))), "choices", data)
        for choice, found in zip(self.choices, data["choices"], strict=True):
            choice.text = found["message"]["content"] if chat else found["text"]
            choice.reason = found["finish_reason"]
        self.usage = data["usage"]

    def event(self, data: str) -> bool:
        """Take an event of a streamed answer; whether a choice has said something by it.

        Raises:
            WrongAnswerError: It is not valid.
        """
        chunk = _json(data)
        _check("error" not in chunk, "the stream ended with an error", chunk)
        chat = self.ask.path == CHAT
        self._frame(chunk, "chat.completion.chunk" if chat else "text_completion")
        self._chunks += 1
        if not chunk["choices"]:
            _check(self._wants_usage and self.usage is None and self._ended, "a chunk without choices", chunk)
            self.usage = chunk["usage"]
            return False
        _check(self._wants_usage == ("usage" in chunk) and chunk.get("usage") is None, "usage within a stream", chunk)
        said = False
        for found in chunk["choices"]:
            choice = self.choices[found["index"]]
            _check(choice.reason is None, "more after the end of a choice", chunk)
            piece = found["delta"].get("content", "") if chat else found["text"]
            choice.text += piece
            choice.reason = found["finish_reason"]
            said = said or bool(piece) or choice.reason is not None
        return said

    def finish(self) -> None:
        """Check the whole, after the last event.

        Raises:
            WrongAnswerError: It is incomplete, or contradicts itself or the request.
        """
        asked = self.ask.fields
        _check(self._ended, "a choice has no end", self.choices)
        _check(all(isinstance(text, str) for text in self.texts), "texts", self.texts)
        stops = asked.get("stop", [])
        for stop in [stops] if isinstance(stops, str) else stops:
            _check(not any(stop in text for text in self.texts), f"the stop string {stop!r} is in the text", self.texts)
        ends = {choice.reason for choice in self.choices}
        _check(ends <= {"stop", "length"}, "finish_reason", ends)
        if asked.get("ignore_eos") and not stops:
            _check(ends == {"length"}, "nothing but the length could end it", ends)
        _check((self.usage is not None) == (not asked.get("stream") or self._wants_usage), "usage", self.usage)
        if self.usage is not None:
            self._check_usage(self.usage, ends)

    def _check_usage(self, usage: Mapping[str, Any], ends: set[str | None]) -> None:
        prompt, answered = usage["prompt_tokens"], usage["completion_tokens"]
        if self.ask.prompt_tokens is not None:
            _check(prompt == self.ask.prompt_tokens, f"not {self.ask.prompt_tokens} prompt tokens", usage)
        _check(usage["total_tokens"] == prompt + answered, "the tokens do not add up", usage)
        _check(0 <= usage["prompt_tokens_details"]["cached_tokens"] < prompt, "cached tokens", usage)
        limit = self.ask.fields.get("max_completion_tokens", self.ask.fields.get("max_tokens"))
        if self.ask.prompts == 1:
            limit = min(limit, self.served.context - prompt)
        most = limit * len(self.choices)
        _check(len(self.choices) <= answered <= most, f"not 1 to {limit} tokens for each choice", usage)
        if ends == {"length"}:
            _check(answered == most, f"ended by the length, but not with {most} tokens", usage)
        positions = usage["flexquant"]
        worst = positions["position_worst"]
        _check(0 <= worst <= self.served.max_position, "positions", positions)
        _check(max(positions["position_start"], positions["position_end"]) <= worst, "positions", positions)

    def _frame(self, data: Mapping[str, Any], kind: str) -> None:
        """What every answer and every chunk has."""
        prefix = "chatcmpl-" if self.ask.path == CHAT else "cmpl-"
        _check(data["object"] == kind, "object", data)
        _check(data["id"].startswith(prefix) and self._id in (None, data["id"]), "id", data)
        self._id = data["id"]
        self.fingerprint = data["system_fingerprint"]

    @property
    def _ended(self) -> bool:
        return all(choice.reason is not None for choice in self.choices)

    @property
    def _wants_usage(self) -> bool:
        return bool(self.ask.fields.get("stream_options", {}).get("include_usage"))


def check_refusal(status: int, headers: Mapping[str, str], content: bytes, expected: Refusal | None) -> str:
    """Check a response that is no answer, and return its code.

    Raises:
        WrongAnswerError: It is neither the expected refusal nor a documented 503.
    """
    error = _json(content)["error"]
    _check(error.keys() == {"message", "type", "param", "code"} and bool(error["message"]), "envelope", error)
    code: str = error["code"]
    if status == 503:
        _check(code in UNAVAILABLE and error["type"] == "unavailable_error", "an undocumented 503", error)
        _check(headers.get("retry-after", "").isdecimal(), "Retry-After", dict(headers))
        return code
    _check(expected is not None, f"status {status}", error)
    _check(expected == Refusal(status, code), f"status {status} instead of {expected}", error)
    _check(error["type"] == "invalid_request_error", "type", error)
    return code


def kind_of(ask: Ask) -> Literal["streamed", "whole"]:
    """How it is answered."""
    return "streamed" if ask.fields.get("stream") else "whole"


def _json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise WrongAnswerError(f"not JSON: {content!r:.300}") from error
