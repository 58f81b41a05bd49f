"""What clients ask for: random requests of every kind that the API takes, and some that it must refuse."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bench.worker import ROOT

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"

DOCUMENT: Final = ROOT.joinpath("tests", "assets", "text", "validation.txt").read_bytes().decode("ascii", "ignore")
"""Where all texts come from. A text has no more tokens than bytes."""
_TOKENS: Final = range(64, 2048)
"""Ids that are ordinary text in any vocabulary."""
_MARGIN: Final = 64
"""Tokens that a chat template may add to one more turn."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the daemon says about its model.

    Args:
        context: Most tokens of prompt and answer.
        max_position: The smallest position.
    """

    context: int
    max_position: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status and the code of an error that a request must get."""

    status: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, what is known of its answer, and how its client behaves.

    Args:
        path: Endpoint.
        body: JSON; bytes are sent as they are.
        refusal: The only right answer, if the request is wrong.
        prompt_tokens: Of all its prompts together, where that is known.
        probe: Which reference answer its own must equal if all of it was computed at position 0.
        leave_after_s: When its client hangs up, answered or not.
        leave_after_chunks: After how many chunks of a stream its client hangs up.
        pause_s: How long its client takes to read a chunk.
    """

    path: str
    body: Mapping[str, Any] | bytes
    refusal: Refusal | None = None
    prompt_tokens: int | None = None
    probe: int | None = None
    leave_after_s: float | None = None
    leave_after_chunks: int | None = None
    pause_s: float = 0.0

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body's fields."""
        return {} if isinstance(self.body, bytes) else self.body

    @property
    def prompts(self) -> int:
        """How many prompts it has."""
        prompt = self.fields.get("prompt")
        return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1

    @property
    def sequences(self) -> int:
        """How many choices its answer has."""
        return self.prompts * int(self.fields.get("n", 1))


def text_of(rng: random.Random, least: int, most: int) -> str:
    """A random piece of the document with so many bytes."""
    length = rng.randint(least, most)
    start = rng.randrange(len(DOCUMENT) - length)
    return DOCUMENT[start : start + length]


SYSTEMS: Final[Sequence[str]] = [
    DOCUMENT[start : start + length] for start, length in ((0, 900), (5000, 600), (0, 700))
]
"""System prompts that many conversations have in common; two of them begin alike."""

_ASKED: Final[Sequence[tuple[str, dict[str, Any]]]] = [
    (TEXT, {"prompt": DOCUMENT[:500], "temperature": 0}),
    (TEXT, {"prompt": DOCUMENT[:1500], "temperature": 0}),
    (TEXT, {"prompt": list(range(100, 800)), "temperature": 1, "seed": 5}),
    (TEXT, {"prompt": DOCUMENT[2000:2300], "temperature": 0.8, "top_p": 0.9, "seed": 7, "n": 2}),
    (CHAT, {"messages": [{"role": "system", "content": SYSTEMS[0]}, {"role": "user", "content": "Why?"}], "top_k": 1}),
]
PROBES: Final[Sequence[Ask]] = [
    Ask(path=path, body={**fields, "max_tokens": 24, "ignore_eos": True}, probe=number)
    for number, (path, fields) in enumerate(_ASKED)
]
"""Requests whose answer is always the same at one position: alone, beside others, streamed or not, cached or not."""


class Conversation:
    """A chat that goes on: each turn sends all that was said before.

    Args:
        rng: Of the client.
        context: The model's.
    """

    def __init__(self, rng: random.Random, context: int) -> None:
        self._rng = rng
        self._context = context
        self._messages: list[dict[str, str]] = []
        self._tokens = 0
        if rng.random() < 0.7:
            self._messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
            self._tokens += len(self._messages[0]["content"])

    def next_messages(self, most_answer: int) -> list[dict[str, str]] | None:
        """Messages up to a new question; None when the context has no room for it and an answer of so many tokens."""
        question = {"role": "user", "content": text_of(self._rng, 10, 400)}
        if self._tokens + len(question["content"]) + _MARGIN + most_answer > self._context:
            return None
        if self._messages and self._messages[-1]["role"] == "user":  # it was never answered: ask something else
            self._messages.pop()
        self._messages.append(question)
        return list(self._messages)

    def heard(self, text: str, tokens: int) -> None:
        """The latest question was answered; question, answer and all before have `tokens` tokens, or fewer."""
        self._messages.append({"role": "assistant", "content": text})
        self._tokens = tokens + _MARGIN


class Imagination:
    """Thinks of requests, one client's.

    Args:
        rng: Of the client.
        served: What it talks to.
    """

    def __init__(self, rng: random.Random, served: Served) -> None:
        self._rng = rng
        self._served = served
        self.conversation = Conversation(rng, served.context)

    def next(self) -> tuple[Ask, bool]:
        """Return a request, and whether it is a turn of the conversation."""
        kinds = {
            self._turn: 30,
            self._text: 14,
            self._texts: 8,
            self._token_ids: 8,
            self._token_lists: 4,
            self._long: 5,
            self._probe: 10,
            self._wrong: 8,
        }
        (kind,) = self._rng.choices(list(kinds), list(kinds.values()))
        return kind(), kind == self._turn

    def _turn(self) -> Ask:
        fields = self._common(most=96)
        messages = self.conversation.next_messages(fields["max_tokens"])
        if messages is None:
            self.conversation = Conversation(self._rng, self._served.context)
            messages = self.conversation.next_messages(fields["max_tokens"])
        assert messages is not None, "the context has no room for a first question"
        if self._rng.random() < 0.3:
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        return self._behaving(CHAT, {"messages": messages, **fields})

    def _text(self) -> Ask:
        prompt = text_of(self._rng, 1, 700)
        if self._rng.random() < 0.4:
            prompt = self._rng.choice(SYSTEMS) + prompt
        return self._behaving(TEXT, {"prompt": prompt, **self._common(most=96)})

    def _texts(self) -> Ask:
        prompts = [text_of(self._rng, 1, 300) for _ in range(self._rng.randint(1, 4))]
        if self._rng.random() < 0.3:
            prompts.append(prompts[-1])
        return self._behaving(TEXT, {"prompt": prompts, **self._common(most=32)})

    def _token_ids(self) -> Ask:
        prompt = self._ids(self._rng.randint(1, 400))
        return self._behaving(TEXT, {"prompt": prompt, **self._common(most=96)}, prompt_tokens=len(prompt))

    def _token_lists(self) -> Ask:
        prompts = [self._ids(self._rng.randint(1, 200)) for _ in range(self._rng.randint(2, 4))]
        body = {"prompt": prompts, **self._common(most=32)}
        return self._behaving(TEXT, body, prompt_tokens=sum(map(len, prompts)))

    def _long(self) -> Ask:
        """Up to the context, and sometimes an answer that fills it."""
        context = self._served.context
        length = self._rng.choice([context - 1, context - 2, self._rng.randint(context // 2, context - 1)])
        fields = self._common(most=48)
        if self._rng.random() < 0.3:
            fields["max_tokens"] = context
        return self._behaving(TEXT, {"prompt": self._ids(length), **fields}, prompt_tokens=length)

    def _probe(self) -> Ask:
        probe = self._rng.choice(PROBES)
        tokens = probe.fields["prompt"] if isinstance(probe.fields.get("prompt"), list) else None
        ask = self._behaving(probe.path, {**probe.fields, **self._streaming()}, prompt_tokens=tokens and len(tokens))
        return replace(ask, probe=probe.probe)

    def _wrong(self) -> Ask:
        invalid, long = Refusal(400, "invalid_value"), Refusal(400, "context_length_exceeded")
        too_many_ids = {"prompt": self._ids(self._served.context), "stream": self._rng.random() < 0.5}
        too_long = {"role": "user", "content": "word " * self._served.context}
        unknown = {"model": "another", "messages": [{"role": "user", "content": "a"}]}
        wrong: list[tuple[str, dict[str, Any] | bytes, Refusal]] = [
            (TEXT, b'{"prompt": "cut', Refusal(400, "invalid_json")),
            (TEXT, {"prompt": []}, invalid),
            (TEXT, {"prompt": "a", "temperature": 5}, invalid),
            (TEXT, {"prompt": "a", "n": 0}, invalid),
            (TEXT, {"prompt": "a", "n": 1000}, invalid),
            (TEXT, {"prompt": [10**9]}, invalid),
            (TEXT, {"prompt": "a", "stop": ["x"] * 99}, invalid),
            (TEXT, {"prompt": "a", "suffix": "b"}, Refusal(400, "unsupported")),
            (TEXT, {"prompt": ["a", self._ids(1)]}, invalid),
            (TEXT, too_many_ids, long),
            (CHAT, {"messages": []}, invalid),
            (CHAT, {"messages": [{"role": "robot", "content": "a"}]}, invalid),
            (CHAT, {"messages": [too_long]}, long),
            (CHAT, unknown, Refusal(404, "model_not_found")),
        ]
        path, body, refusal = self._rng.choice(wrong)
        return Ask(path=path, body=body, refusal=refusal)

    def _ids(self, length: int) -> list[int]:
        """Token ids; half of the prompts begin like others."""
        if self._rng.random() < 0.5:
            start = self._rng.choice([64, 500])
            same = [start + place % 1000 for place in range(self._rng.randint(0, length))]
            return same + self._rng.choices(_TOKENS, k=length - len(same))
        return self._rng.choices(_TOKENS, k=length)

    def _common(self, *, most: int) -> dict[str, Any]:
        """Fields that every request can have, `max_tokens` among them."""
        rng = self._rng
        fields: dict[str, Any] = {"max_tokens": rng.randint(1, most)}
        if rng.random() < 0.5:
            fields["model"] = "demo"
        if rng.random() < 0.7:
            fields["temperature"] = rng.choice([0, 0.3, 1, 1.5])
        if rng.random() < 0.3:
            fields["top_p"] = rng.choice([0.1, 0.9, 1.0])
        if rng.random() < 0.3:
            fields["top_k"] = rng.choice([0, 1, 40])
        if rng.random() < 0.3:
            fields["seed"] = rng.choice([0, -1, 7, 2**62])
        if rng.random() < 0.25:
            fields["stop"] = rng.choice(["e", "\n\n", ["the", " function"], ["\u20ac", "``"]])
        if rng.random() < 0.5:
            fields["ignore_eos"] = True
        if rng.random() < 0.2:
            fields["n"] = rng.randint(2, 3)
        return fields | self._streaming()

    def _streaming(self) -> dict[str, Any]:
        if self._rng.random() < 0.4:
            return {}
        if self._rng.random() < 0.3:
            return {"stream": True}
        return {"stream": True, "stream_options": {"include_usage": True}}

    def _behaving(self, path: str, body: Mapping[str, Any], *, prompt_tokens: int | None = None) -> Ask:
        """The request of a client that may be slow or go away."""
        rng, draw = self._rng, self._rng.random()
        return Ask(
            path=path,
            body=body,
            prompt_tokens=prompt_tokens,
            leave_after_s=rng.choice([0.005, 0.05, 1.0]) * rng.random() if draw < 0.07 else None,
            leave_after_chunks=rng.randint(0, 20) if 0.07 <= draw < 0.15 else None,
            pause_s=rng.choice([0.02, 0.1]) if draw > 0.95 else 0.0,
        )
