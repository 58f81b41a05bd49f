"""Whose turn it is, and what is sent."""

from hypothesis import given
from hypothesis import strategies as st

from flexquant.clients.chat.conversation import Conversation


def test_what_is_sent() -> None:
    chat = Conversation("Be brief.")
    chat.ask("Hello")
    chat.answer("Hi")
    chat.ask("Why?")
    assert chat.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Why?"},
    ]
    assert chat.prompt() == "Be brief.\nHelloHi\nWhy?"
    assert chat.as_text() == ("## system\n\nBe brief.\n\n## user\n\nHello\n\n## assistant\n\nHi\n\n## user\n\nWhy?\n")


def test_a_message_without_an_answer_is_replaced_by_the_next() -> None:
    chat = Conversation()
    chat.ask("Hello?")
    chat.answer("")
    assert chat.retry()
    chat.ask("Anybody?")
    assert chat.messages() == [{"role": "user", "content": "Anybody?"}]


def test_retry_needs_something_to_answer() -> None:
    chat = Conversation("s")
    assert not chat.retry()
    chat.ask("Hello")
    chat.answer("Hi")
    assert chat.retry()
    assert chat.unanswered
    chat.clear()
    assert chat.messages() == [{"role": "system", "content": "s"}]


@given(st.lists(st.tuples(st.sampled_from(["ask", "answer", "retry", "clear"]), st.text(max_size=3)), max_size=20))
def test_user_and_model_take_turns_and_the_user_begins(steps: list[tuple[str, str]]) -> None:
    chat = Conversation()
    for step, text in steps:
        match step:
            case "ask":
                chat.ask(text)
            case "answer" if chat.unanswered:
                chat.answer(text)
            case "retry":
                assert chat.retry() == chat.unanswered
            case "clear":
                chat.clear()
    roles = [turn["role"] for turn in chat.messages()]
    assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
