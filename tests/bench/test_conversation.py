"""A conversation that goes on while its server fails, is away, and comes back."""

import time
from collections.abc import Callable

import pytest

from bench.machine import conversation
from bench.machine.conversation import ANSWER, Conversation, Turn, computed_again
from bench.server_process import ServerError


class FakeStream:
    """Streams `ANSWER` parts at once, or the first few and an error."""

    script: list[int | None]
    """Parts of each answer; None is a server that is away."""
    asked: list[int]

    def __init__(self, _: int, body: dict[str, list[int]]) -> None:
        type(self).asked.append(len(body["prompt"]))
        parts = type(self).script.pop(0) if type(self).script else ANSWER
        if parts is None:
            raise ConnectionRefusedError("nobody listens")
        self.sent = time.monotonic()
        self.pieces = [self.sent] * parts
        self.tokens = ANSWER if parts == ANSWER else None
        self.cached_tokens = len(body["prompt"]) - 40

    def wait_for_pieces(self, count: int) -> None:
        if count > len(self.pieces):
            raise ServerError("the answer has ended")

    def __enter__(self) -> "FakeStream":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeStream]:
    FakeStream.script, FakeStream.asked = [], []
    monkeypatch.setattr(conversation, "Stream", FakeStream)
    monkeypatch.setattr(conversation, "_AGAIN_SECONDS", 0.001)
    return FakeStream


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_was_not_answered_is_asked_again(fake: type[FakeStream]) -> None:
    fake.script = [ANSWER, 7, None, None]
    talk = Conversation(lambda: 1, tokens=100, most=100_000, vocab=1000)
    with talk.running():
        until(lambda: len(talk.turns) >= 3)
    assert talk.lost == 7
    first, *rest = fake.asked
    assert first == 100
    assert len(set(rest[:4])) == 1, "the same question until it is answered"
    assert rest[4] > rest[3]
    assert [turn.new for turn in talk.turns[:2]] == [100, rest[0] - 100]
    assert {turn.computed for turn in talk.turns} == {40}


def test_a_conversation_that_fills_the_context_goes_back_to_its_beginning(fake: type[FakeStream]) -> None:
    talk = Conversation(lambda: 1, tokens=100, most=100 + 3 * ANSWER, vocab=1000)
    with talk.running():
        until(lambda: len(talk.turns) >= 5)
    assert max(fake.asked) + ANSWER <= 100 + 3 * ANSWER
    assert fake.asked.count(100) == 1
    assert fake.asked.count(fake.asked[1]) >= 2


def test_what_turns_compute_beyond_the_usual() -> None:
    turns = [Turn(0.0, 1000, 1000), Turn(1.0, 60, 50), Turn(2.0, 70, 50), Turn(3.0, 1270, 50), Turn(4.0, 60, 50)]
    assert computed_again(turns, since=2.5) == 1200
    assert computed_again(turns, since=9.0) == 0
    assert computed_again(turns, since=0.5) is None
    assert computed_again([Turn(0.0, None, 9), Turn(1.0, None, 9)], since=0.5) is None
