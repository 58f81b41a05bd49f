"""How chat completions phrase an answer: its text, its tool calls, and the chunks of a stream."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.generate import FinishReason
from flexquant.server.logprob_fields import chat_logprobs
from flexquant.server.token_marks import MarkedToken
from flexquant.server.tools.call_parser import CallArguments, CallParser, CallStart, Content, Part
from flexquant.server.tools.tool_use import ToolUse


class ChatShape:
    """The answers to one request.

    Args:
        tokenizer: Of the model.
        logprobs: Whether tokens have their log-probabilities told.
        tools: What may be called, if anything.
    """

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool, tools: ToolUse | None = None) -> None:
        self._tokenizer = tokenizer
        self._scored = logprobs
        self._tools = tools
        self._parsers: dict[int, CallParser] = {}
        self._untold: dict[int, list[MarkedToken]] = defaultdict(list)
        """By choice: tokens of text that is held back."""

    def whole(self, index: int, text: str, tokens: Sequence[MarkedToken], reason: FinishReason) -> dict[str, Any]:
        """A choice of an answer that is not streamed."""
        parser = self._parser(index)
        parts = _content(text) if parser is None else [*parser.push(text), *parser.finish()]
        message: dict[str, Any] = {"role": "assistant", "content": _text(parts), "refusal": None}
        calls = self._calls(parts)
        if calls:
            message |= {"content": message["content"] or None, "tool_calls": calls}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(tokens),
            "finish_reason": _reason(reason, parser),
        }

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The beginning of a choice's stream."""
        return [_choice(index, {"role": "assistant", "content": ""})]

    def pieces(self, index: int, text: str, tokens: Sequence[MarkedToken]) -> list[dict[str, Any]]:
        """What a choice streams of the next part of its text, which is nothing while that is held back."""
        parser = self._parser(index)
        if parser is None:
            return [_choice(index, {"content": text}, self._logprobs(tokens))]
        self._untold[index].extend(tokens)
        return self._deltas(index, parser.push(text))

    def closing(self, index: int, reason: FinishReason) -> list[dict[str, Any]]:
        """The end of a choice's stream."""
        parser = self._parser(index)
        rest = [] if parser is None else self._deltas(index, parser.finish())
        scores = self._take_logprobs(index)
        return [*rest, _choice(index, {}, scores, _reason(reason, parser))]

    def _parser(self, index: int) -> CallParser | None:
        if self._tools is not None and index not in self._parsers:
            self._parsers[index] = self._tools.parser()
        return self._parsers.get(index)

    def _deltas(self, index: int, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """A chunk for each of `parts`; the first has the log-probabilities of all tokens so far."""
        return [_choice(index, self._delta(part), self._take_logprobs(index)) for part in parts]

    def _delta(self, part: Part) -> dict[str, Any]:
        match part:
            case Content(text):
                return {"content": text}
            case CallStart(number, _):
                return {"tool_calls": [{"index": number, **self._call(part)}]}
            case CallArguments(number, text):
                return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}

    def _calls(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, CallStart):
                calls.append(self._call(part))
            elif isinstance(part, CallArguments):
                calls[-1]["function"]["arguments"] += part.text
        return calls

    def _call(self, start: CallStart) -> dict[str, Any]:
        assert self._tools is not None, "there are no calls without tools"
        return {"id": self._tools.new_id(), "type": "function", "function": {"name": start.name, "arguments": ""}}

    def _logprobs(self, tokens: Sequence[MarkedToken]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self._tokenizer) if self._scored else None

    def _take_logprobs(self, index: int) -> dict[str, Any] | None:
        untold = self._untold.pop(index, None)
        return self._logprobs(untold) if untold else None


def _choice(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: FinishReason | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _content(text: str) -> list[Part]:
    return [Content(text)] if text else []


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))


def _reason(reason: FinishReason, parser: CallParser | None) -> FinishReason:
    """An answer with calls that ended by itself ended to have them done."""
    return "tool_calls" if reason == "stop" and parser is not None and parser.called else reason
