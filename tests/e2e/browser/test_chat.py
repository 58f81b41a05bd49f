"""The chat box: it streams, tells positions, stops, and says what went wrong."""

import json

import pytest
from playwright.sync_api import Page, Request, Route, expect

from support.daemon import RunningDaemon

pytestmark = pytest.mark.clients

CHAT = "**/v1/chat/completions"
ENDLESS = {"ignore_eos": True}


def never_ending(page: Page) -> None:
    """Answers take as many tokens as they may: the model has no say in their end."""
    page.route(CHAT, lambda route: route.continue_(post_data=json.dumps(route.request.post_data_json | ENDLESS)))


def ask(page: Page, question: str, tokens: int = 40) -> None:
    page.get_by_role("spinbutton", name="at most tokens").fill(str(tokens))
    page.get_by_label("Your message").fill(question)
    page.keyboard.press("Enter")


def test_an_answer_is_streamed_and_tells_its_position(page: Page, daemon: RunningDaemon) -> None:
    daemon.post("/v1/elastic/target", {"position": 2})
    ask(page, "What is a trait?", tokens=400)
    answer = page.locator(".message.answer").last
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(answer.locator("p")).not_to_be_empty()
    begun = answer.locator("p").text_content() or ""
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    whole = answer.locator("p").text_content() or ""
    assert whole.startswith(begun)
    expect(answer.locator("small")).to_contain_text("position 2 · ")
    expect(answer.locator("small")).to_contain_text("token")
    expect(page.locator("#chat-news")).to_contain_text("position 2")


def test_the_conversation_goes_along(page: Page) -> None:
    bodies: list[dict[str, object]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/completions"):
            bodies.append(request.post_data_json or {})

    page.on("request", note)
    for question in ("First", "Second"):
        ask(page, question, tokens=3)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    messages = bodies[-1]["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".message")).to_have_count(0)


def test_a_moving_model_is_told_of(page: Page, daemon: RunningDaemon) -> None:
    daemon.post("/v1/elastic/target", {"position": 0})
    never_ending(page)
    ask(page, "Tell me everything about iterators", tokens=1900)
    expect(page.locator(".message.answer p")).not_to_be_empty()
    daemon.post("/v1/elastic/target", {"position": 30})
    expect(page.locator(".message.answer small")).to_contain_text("position 0 → 30")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_stop_ends_the_answer_here_and_in_the_daemon(page: Page, daemon: RunningDaemon) -> None:
    never_ending(page)
    ask(page, "On and on", tokens=1900)
    expect(page.locator(".message.answer p")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".message.answer small")).to_contain_text("stopped")
    assert daemon.lines_with("finish=cancelled")


def test_what_a_model_says_is_text(page: Page) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'

    def answer(route: Route) -> None:
        chunk = {"choices": [{"index": 0, "delta": {"content": evil}, "finish_reason": None}]}
        body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream", headers={"x-flexquant-position": "0"})

    page.route(CHAT, answer)
    title = page.title()
    ask(page, "Say something evil")
    expect(page.locator(".message.answer p")).to_have_text(evil)
    assert page.locator(".message img, .message script").count() == 0
    assert page.title() == title


def refuse(page: Page, status: int, error: dict[str, object]) -> None:
    page.route(CHAT, lambda route: route.fulfill(status=status, json={"error": error}))


def test_a_refusal_is_shown_and_the_question_is_kept(page: Page) -> None:
    refuse(
        page, 503, {"message": "The queue is full: 32 answers wait.", "type": "unavailable_error", "code": "queue_full"}
    )
    ask(page, "Are you there?")
    expect(page.locator(".message.answer small")).to_have_text("The queue is full: 32 answers wait.")
    expect(page.get_by_label("Your message")).to_have_value("Are you there?")


def test_without_a_chat_template_texts_are_continued(page: Page) -> None:
    refuse(page, 400, {"message": "no template", "type": "invalid_request_error", "code": "no_chat_template"})
    ask(page, "The function returns", tokens=5)
    expect(page.locator("#no-template")).to_be_visible()
    expect(page.locator(".message.answer small")).to_contain_text("token")
