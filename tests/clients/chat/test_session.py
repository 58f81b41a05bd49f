"""A chat against a stand-in for the daemon."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flexquant.clients import Client
from flexquant.clients.chat.answering import Answering
from flexquant.clients.chat.conversation import Conversation
from flexquant.clients.chat.session import Session
from support import told

USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 5,
    "flexquant": {"position_start": 3, "position_end": 4, "position_worst": 4},
}


def _stream(texts: Sequence[str], path: str) -> Iterator[bytes]:
    """An answer of either endpoint, piece by piece."""
    chat = path.endswith("chat/completions")
    for text in texts:
        said = {"delta": {"content": text}} if chat else {"text": text}
        yield f"data: {json.dumps({'choices': [{**said, 'finish_reason': None}]})}\n\n".encode()
    end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    yield f"data: {json.dumps({'choices': [{**end, 'finish_reason': 'stop'}]})}\n\n".encode()
    yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n".encode()


@dataclass
class Chat:
    """A session, what it showed, and what it asked."""

    refusal: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    pieces: Sequence[str] = ("Hi", " there")
    fields: dict[str, Any] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        ticks = iter(range(10**6))
        client = Client("http://here", transport=httpx.MockTransport(self._respond))
        answering = Answering(client, self.fields, self.noted.append, clock=lambda: float(next(ticks)))
        self.conversation = Conversation("Be brief.")
        self.session = Session(client, answering, self.conversation, self.shown.append, self.noted.append)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append((path, json.loads(request.content) if request.content else {}))
        refused = self.refusal(request)
        if refused is not None:
            return refused
        if path.startswith("/v1/elastic"):
            return httpx.Response(200, json=told.STATE)
        return httpx.Response(200, content=_stream(self.pieces, path))


def _refusal(code: str, on: str) -> Callable[[httpx.Request], httpx.Response | None]:
    body = {"error": {"message": f"no: {code}", "type": "t", "param": None, "code": code}}
    return lambda request: httpx.Response(400, json=body) if request.url.path == on else None


def test_a_message_is_answered_as_it_comes_and_remembered() -> None:
    chat = Chat(fields={"seed": 7})
    assert chat.session.take("Hello")
    assert chat.shown == ["Hi", " there", "\n"]
    assert chat.session.take("More")
    path, body = chat.asked[-1]
    assert path == "/v1/chat/completions"
    assert body["seed"] == 7
    assert [message["content"] for message in body["messages"]] == ["Be brief.", "Hello", "Hi there", "More"]


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    chat = Chat(pieces=["a\x1b]0;title\x07b"])
    chat.session.take("Hello")
    assert not any("\x1b" in text or "\x07" in text for text in chat.shown)
    assert "\x1b" in chat.conversation.messages()[-1]["content"]


def test_a_model_without_a_template_continues_text_and_says_so_once() -> None:
    chat = Chat(_refusal("no_chat_template", "/v1/chat/completions"))
    chat.session.take("The function")
    chat.session.take("And then")
    assert len([note for note in chat.noted if "no chat template" in note]) == 1
    assert [path for path, _ in chat.asked] == ["/v1/chat/completions", "/v1/completions", "/v1/completions"]
    assert chat.asked[-1][1]["prompt"] == "Be brief.\nThe functionHi there\nAnd then"
    assert chat.asked[-1][1]["max_tokens"] == 256


def test_stopped_by_ctrl_c_it_keeps_what_came_and_goes_on() -> None:
    chat = Chat()

    def interrupted(text: str) -> None:
        chat.shown.append(text)
        if text == "Hi":
            raise KeyboardInterrupt

    chat.session._show = interrupted
    assert chat.session.take("Hello")
    assert "stopped; /retry answers anew" in chat.noted
    assert chat.conversation.messages()[-1] == {"role": "assistant", "content": "Hi"}
    chat.session._show = chat.shown.append
    chat.session.take("/retry")
    assert chat.conversation.messages()[-1]["content"] == "Hi there"


def test_what_goes_wrong_is_told_and_the_message_can_be_sent_again() -> None:
    chat = Chat(_refusal("context_length_exceeded", "/v1/chat/completions"))
    assert chat.session.take("Hello")
    assert chat.noted == ["no: context_length_exceeded", "/clear makes room"]
    chat.refusal = lambda _: None
    chat.session.take("/retry")
    assert [message["role"] for message in chat.conversation.messages()] == ["system", "user", "assistant"]


def test_pin_auto_and_stats() -> None:
    chat = Chat()
    chat.session.take("/pin 3")
    chat.session.take("/auto")
    assert [body for path, body in chat.asked] == [{"position": 3}, {"mode": "auto"}]
    assert chat.noted[0] == "position 3 of 10 (auto), 700.0 MiB"
    chat.session.take("/stats")
    assert chat.noted[-1] == ("now: position 3 of 10 (auto), 700.0 MiB of weights (400.0 MiB to 3.0 GiB), KL 0.01000")
    chat.session.take("Hello")
    chat.session.take("/stats")
    assert chat.noted[-1].startswith(
        "last answer: 5 tokens in 2.00 s: 2.5 tokens/s, prompt included, first text after 1.00 s\n"
        "positions 3 to 4, worst 4\nnow: "
    )


def test_other_commands(tmp_path: Path) -> None:
    chat = Chat()
    for line in ("/retry", "/system", '/system ""', "/system", "/help", "/nonsense"):
        assert chat.session.take(line)
    assert chat.noted[:4] == [
        "there is nothing to answer yet",
        "system prompt: Be brief.",
        "no system prompt",
        "no system prompt",
    ]
    assert "/pin N" in chat.noted[4]
    assert chat.noted[5].startswith("there is no /nonsense")
    chat.session.take("Hello")
    path = tmp_path / "chat.md"
    chat.session.take(f"/save {path}")
    assert chat.noted[-1] == f"written to {path}"
    assert path.read_text() == "## user\n\nHello\n\n## assistant\n\nHi there\n"
    assert path.stat().st_mode & 0o777 == 0o600
    chat.session.take(f"/save {path}")
    assert chat.noted[-1] == f"{path}: not written: there is something of that name"
    chat.session.take(f"/save {tmp_path / 'no' / 'chat.md'}")
    assert chat.noted[-1].endswith("not written: No such file or directory")
    assert os.listdir(tmp_path) == ["chat.md"]
    chat.session.take("/clear")
    assert chat.conversation.messages() == []
    assert not chat.session.take("/quit")


@pytest.mark.parametrize("reason", ["length", "stop"])
def test_an_answer_that_was_cut_off_is_told(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat()
    body = b"".join(_stream(["Hi"], "/v1/chat/completions")).replace(b'"stop"', f'"{reason}"'.encode())
    chat.refusal = lambda _: httpx.Response(200, content=body)
    chat.session.take("Hello")
    assert any("cut off" in note for note in chat.noted) == (reason == "length")
