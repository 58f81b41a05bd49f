"""Every request field, for both endpoints, over HTTP: honoured, accepted, refused or ignored, as its page says.

Honoured: an answer with the field differs from one without. Accepted and ignored: it does not. Refused: 400 with the
field's name and the code `unsupported`.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from flexquant.server.api_types import (
    ACCEPTED_BY_COMPLETIONS,
    REFUSED_BY_CHAT,
    REFUSED_BY_COMPLETIONS,
    ChatRequest,
    CompletionRequest,
)
from support.fake_daemon import FakeDaemon, fake_daemon

Json = dict[str, Any]
PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "request-fields.md"
PATHS: Final = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
PROMPTS: Final[dict[str, Json]] = {
    "completions": {"prompt": "Hello"},
    "chat": {"messages": [{"role": "user", "content": "Hello"}]},
}
EOS, CHOSEN = 1, 3000
TOOLS: Final = [{"type": "function", "function": {"name": "f"}}]
TEMPLATE: Final = """
{{- bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{{ tools or "" }}
{{- mood }}<|assistant|>
{#- <tool_call> #}"""
TWO_CALLS: Final = 2 * '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
ON: Final[Json] = {
    "tools": TOOLS,
    "tool_choice": "required",
    "best_of": 2,
    "echo": True,
    "store": True,
    "suffix": "end",
    "modalities": ["text", "audio"],
    "repeat_penalty": 1.1,
    "top_logprobs": 1,
}
"""Values of refused fields; an object for all others."""
EXTENSIONS: Final = (
    *("dry_multiplier", "xtc_probability", "mirostat", "template_vars", "lora", "id_slot", "cache_prompt", "ttl"),
    *("adapters", "draft_model", "priority", "cache_salt", "keep_alive"),
)
"""What other servers have beyond OpenAI's API, and ours has not."""
COMPARED: Final = (
    *("prompt", "n", "best_of", "echo", "suffix", "logprobs", "top_logprobs", "stop", "seed", "logit_bias", "top_k"),
    *("min_p", "repetition_penalty", "response_format", "structured_outputs", "tools", "tool_choice", "stream_options"),
    *("max_completion_tokens", "reasoning_effort", "chat_template_kwargs"),
)
"""Fields in which local servers differ."""
CHOSEN_WINS: Final[Json] = {"logit_bias": {str(CHOSEN): 100}}
NEARLY: Final[Json] = {"temperature": 2, "logit_bias": {str(CHOSEN): 49}}
"""The fake model's own choice has 50, all others 0."""
A_BIT_MORE: Final[Json] = {"temperature": 2, "logit_bias": {str(CHOSEN): 52}}
UNTIL_IT_COSTS: Final[Json] = {"temperature": 0, "logit_bias": {str(CHOSEN): 51}}
HONOURED: Final[dict[str, tuple[Json, Any]]] = {
    "model": ({}, "another"),
    "prompt": ({}, [[70, 71], [72]]),
    "messages": ({}, [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "x"}]),
    "max_tokens": ({"max_tokens": 3}, 5),
    "max_completion_tokens": ({}, 5),
    "n": ({}, 2),
    "stop": (CHOSEN_WINS, ["_"]),
    "ignore_eos": ({"logit_bias": {str(EOS): 100}}, True),
    "stream": ({}, True),
    "stream_options": ({"stream": True}, {"include_usage": True}),
    "temperature": (NEARLY, 0),
    "top_k": (NEARLY, 1),
    "top_p": (A_BIT_MORE, 0.5),
    "min_p": (A_BIT_MORE, 0.5),
    "seed": (NEARLY, 6),
    "presence_penalty": (UNTIL_IT_COSTS, 2),
    "frequency_penalty": (UNTIL_IT_COSTS, 0.6),
    "repetition_penalty": (UNTIL_IT_COSTS, 1.5),
    "logit_bias": ({}, {str(CHOSEN): 100}),
    "logprobs": ({}, None),
    "top_logprobs": ({"logprobs": True}, 2),
    "echo": ({}, True),
    "tools": ({}, TOOLS),
    "tool_choice": ({"tools": TOOLS}, "none"),
    "parallel_tool_calls": ({"tools": TOOLS, "max_tokens": 100}, False),
    "chat_template_kwargs": ({}, {"mood": "Be calm."}),
    "response_format": ({}, {"type": "json_object"}),
    "structured_outputs": ({}, {"regex": "[0-9]+"}),
}
"""What else the request has, and a value that makes a difference to it; `logprobs` has one for each endpoint."""


def page() -> Iterator[tuple[str, str, str, list[Any]]]:
    """Field, endpoint, what the reference page says about them, and the values that it calls "off"."""
    for line in PAGE.read_text().splitlines():
        found = re.match(r"\| `(\w+)` \| (\w+)(?: \((.*?)\))? \| (\w+)(?: \((.*?)\))? \|", line)
        if found:
            field, text, text_off, chat, chat_off = found.groups()
            yield field, "completions", text, json.loads(f"[{text_off or ''}]")
            yield field, "chat", chat, json.loads(f"[{chat_off or ''}]")


ROWS: Final = list(page())


def told(word: str) -> list[tuple[str, str, list[Any]]]:
    return [(field, endpoint, off) for field, endpoint, said, off in ROWS if said == word]


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon(chat_template=TEMPLATE) as running:
        yield running


def ask(daemon: FakeDaemon, endpoint: str, **fields: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            body = {**PROMPTS[endpoint], "max_tokens": 6, "seed": 1, **fields}
            return await client.post(PATHS[endpoint], json=body)

    return asyncio.run(run())


def said(answer: httpx.Response) -> tuple[int, str]:
    """All of an answer but what differs every time."""
    return answer.status_code, re.sub(r'"(id":"[^"]*"|created":\d+)', "", answer.text)


@pytest.mark.parametrize("endpoint", PATHS)
def test_the_page_has_the_fields_of_the_code(endpoint: str) -> None:
    fields, refused, others = {
        "completions": (CompletionRequest.model_fields, REFUSED_BY_COMPLETIONS, ChatRequest.model_fields),
        "chat": (ChatRequest.model_fields, REFUSED_BY_CHAT, CompletionRequest.model_fields),
    }[endpoint]
    expected = dict.fromkeys(others, "ignored") | dict.fromkeys(ACCEPTED_BY_COMPLETIONS, "accepted")
    expected |= dict.fromkeys(refused, "refused") | dict.fromkeys(fields, "honoured")
    assert {field: word for field, at, word, _ in ROWS if at == endpoint} == expected
    assert {field: off for field, at, off in told("refused") if at == endpoint} == {
        field: list(off) for field, off in refused.items()
    }


def test_the_page_has_every_field_in_which_servers_differ() -> None:
    assert set(COMPARED) <= {field for field, _, _, _ in ROWS}


@pytest.mark.parametrize(("field", "endpoint", "off"), told("honoured"))
def test_honoured(
    daemon: FakeDaemon, field: str, endpoint: str, off: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not off
    more, value = HONOURED[field]
    if field == "logprobs":
        value = {"completions": 2, "chat": True}[endpoint]
    # The model calls no tools by itself.
    calls = daemon.tokenizer.encode(TWO_CALLS, bos=False)
    monkeypatch.setattr(daemon.model, "script", calls if field == "parallel_tool_calls" else None)
    without = ask(daemon, endpoint, **more)
    assert without.status_code == 200
    assert said(ask(daemon, endpoint, **more)) == said(without), "nothing else makes a difference"
    with_field = ask(daemon, endpoint, **{**more, field: value})
    assert with_field.status_code == (404 if field == "model" else 200), with_field.text
    assert said(with_field) != said(without)
    if field not in PROMPTS[endpoint]:
        assert ask(daemon, endpoint, **{**more, field: None}).status_code == 200, "null is as if it were not there"


@pytest.mark.parametrize(("field", "endpoint", "off"), [*told("accepted"), *told("ignored")])
def test_accepted_or_ignored(daemon: FakeDaemon, field: str, endpoint: str, off: list[Any]) -> None:
    assert not off
    plain = said(ask(daemon, endpoint))
    for value in ("anything", {"any": "thing"}, [1], 3, True, None):
        assert said(ask(daemon, endpoint, **{field: value})) == plain


@pytest.mark.parametrize(("field", "endpoint", "off"), told("refused"))
def test_refused(daemon: FakeDaemon, field: str, endpoint: str, off: list[Any]) -> None:
    plain = said(ask(daemon, endpoint))
    for value in (None, *off):
        assert said(ask(daemon, endpoint, **{field: value})) == plain
    for stream in (False, True):
        answer = ask(daemon, endpoint, stream=stream, **{field: ON.get(field, {"some": "thing"})})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert (error["param"], error["code"]) == (field, "unsupported")


@pytest.mark.parametrize("endpoint", PATHS)
@pytest.mark.parametrize("field", EXTENSIONS)
def test_unknown_to_us(daemon: FakeDaemon, field: str, endpoint: str) -> None:
    assert said(ask(daemon, endpoint, **{field: 1})) == said(ask(daemon, endpoint))


@pytest.mark.parametrize("endpoint", PATHS)
def test_values_beyond_a_limit_are_invalid(daemon: FakeDaemon, endpoint: str) -> None:
    for field in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "n"):
        error = ask(daemon, endpoint, **{field: -3}).json()["error"]
        assert (error["param"], error["code"]) == (field, "invalid_value")
        assert "greater than or equal to" in error["message"]


@pytest.mark.parametrize("endpoint", PATHS)
def test_the_usage_tells_cached_tokens(daemon: FakeDaemon, endpoint: str) -> None:
    assert ask(daemon, endpoint).json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
