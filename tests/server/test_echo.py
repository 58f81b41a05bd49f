"""`echo`: the prompt's text and its tokens' log-probabilities, as tools that measure models ask for them."""

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_daemon import CONTEXT, FakeDaemon, fake_daemon
from support.fake_model import next_token

Json = dict[str, Any]
TEXT = "/v1/completions"
LIKELIEST = -math.log1p(4095 * math.exp(-50))
"""Of the fake model's choice; any other token has 50 less."""
IDS = st.lists(st.integers(64, 4000), min_size=1, max_size=80)


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


def post(daemon: FakeDaemon, body: Json) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            return await client.post(TEXT, json={"temperature": 0, "echo": True, **body})

    return asyncio.run(run())


def choice(daemon: FakeDaemon, body: Json) -> Json:
    answer = post(daemon, body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0])


def continued(tokens: Sequence[int], count: int) -> list[int]:
    found = list(tokens)
    for _ in range(count):
        found.append(next_token(found[-1], len(found)))
    return found


@given(prompt=IDS, count=st.integers(0, 6))
@settings(deadline=None, max_examples=50)
def test_prompt_and_answer_have_one_entry_for_each_token(daemon: FakeDaemon, prompt: list[int], count: int) -> None:
    tokens = continued(prompt, count)
    found = choice(daemon, {"prompt": prompt, "max_tokens": count, "logprobs": 1})
    logprobs = found["logprobs"]
    assert found["text"] == daemon.tokenizer.decode(tokens)
    assert found["finish_reason"] == "length"
    assert len(logprobs["tokens"]) == len(tokens)
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    guesses = [next_token(token, place + 1) for place, token in enumerate(tokens)]
    for place in range(1, len(tokens)):
        right = guesses[place - 1] == tokens[place]
        expected = pytest.approx(LIKELIEST if right else LIKELIEST - 50)
        assert logprobs["token_logprobs"][place] == expected
        best = max(logprobs["top_logprobs"][place].values())
        assert (logprobs["token_logprobs"][place] == best) is right, "how lm-evaluation-harness tells a greedy answer"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_logprobs_the_text_alone_is_repeated(daemon: FakeDaemon, count: int) -> None:
    found = choice(daemon, {"prompt": "Hello world", "max_tokens": count})
    tokens = continued(daemon.tokenizer.encode("Hello world", bos=True), count)
    assert found["text"] == daemon.tokenizer.decode(tokens)
    assert found["text"].startswith("Hello world")
    assert found["logprobs"] is None


def test_a_prompt_of_text_begins_with_bos_which_adds_no_text(daemon: FakeDaemon) -> None:
    logprobs = choice(daemon, {"prompt": "Hello", "max_tokens": 0, "logprobs": 0})["logprobs"]
    assert logprobs["tokens"][0] == daemon.tokenizer.bos_token
    assert logprobs["text_offset"][:2] == [0, 0]
    assert "".join(logprobs["tokens"][1:]) == "Hello"


def test_offsets_cut_the_text_into_the_tokens(daemon: FakeDaemon) -> None:
    found = choice(daemon, {"prompt": "The 🎉 is here", "max_tokens": 4, "logprobs": 0})
    offsets = [*found["logprobs"]["text_offset"], len(found["text"])]
    names = found["logprobs"]["tokens"]
    for name, start, end in zip(names[1:], offsets[1:], offsets[2:], strict=False):
        assert found["text"][start:end] == name or name.startswith("bytes:"), name
    assert any(name.startswith("bytes:") for name in names)


@pytest.mark.parametrize("prompt", ["Hello 🎉", "Hello " * 120])
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("end", [-100, 100])
def test_streamed_is_the_same(daemon: FakeDaemon, prompt: str, count: int, end: int) -> None:
    [end_token] = daemon.model.config.eos_ids
    body: Json = {"prompt": prompt, "max_tokens": count, "logprobs": 2, "logit_bias": {str(end_token): end}}
    whole = choice(daemon, body)
    lines = [line for line in post(daemon, body | {"stream": True}).text.split("\n\n") if line]
    parts = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for part in parts if part["logprobs"] for item in part["logprobs"][name]] == whole["logprobs"][
            name
        ]


def test_stop_strings_are_looked_for_in_the_answer_alone(daemon: FakeDaemon) -> None:
    plain = choice(daemon, {"prompt": "Hello stop", "max_tokens": 6, "logprobs": 0})
    assert choice(daemon, {"prompt": "Hello stop", "max_tokens": 6, "logprobs": 0, "stop": ["stop", "Hello"]}) == plain
    answer = plain["text"].removeprefix("Hello stop")
    stopped = choice(daemon, {"prompt": "Hello stop", "max_tokens": 6, "logprobs": 0, "stop": answer[3:6]})
    assert stopped["text"] == "Hello stop" + answer[: answer.index(answer[3:6])]
    assert stopped["finish_reason"] == "stop"
    assert max(stopped["logprobs"]["text_offset"]) < len(stopped["text"])


def test_an_answer_that_ends_at_once_has_an_entry_for_its_end(daemon: FakeDaemon) -> None:
    """lm-evaluation-harness asks for one token and drops the last entry, whatever that token is."""
    [end] = daemon.model.config.eos_ids
    body: Json = {"prompt": [70, 71], "max_tokens": 1, "logprobs": 1, "logit_bias": {str(end): 100}}
    found = choice(daemon, body)
    assert (found["text"], found["finish_reason"]) == (daemon.tokenizer.decode([70, 71]), "stop")
    assert found["logprobs"]["tokens"][2:] == [daemon.tokenizer.eos_token]
    assert found["logprobs"]["token_logprobs"][2] == pytest.approx(LIKELIEST - 50)
    assert found["logprobs"]["text_offset"][2] == len(found["text"])
    assert choice(daemon, body | {"echo": False})["logprobs"]["tokens"] == []
    assert choice(daemon, body | {"logprobs": None})["logprobs"] is None


def test_choices_and_prompts_each_have_their_own(daemon: FakeDaemon) -> None:
    body = {"prompt": [[70, 71], [90, 91, 92]], "n": 2, "max_tokens": 1, "logprobs": 0}
    answer = post(daemon, body).json()
    lengths = [len(found["logprobs"]["tokens"]) for found in answer["choices"]]
    assert lengths == [3, 3, 4, 4]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5, 4)


def test_max_tokens_0_takes_a_prompt_as_long_as_the_context(daemon: FakeDaemon) -> None:
    body: Json = {"prompt": [70] * CONTEXT, "max_tokens": 0}
    for more in ({"logprobs": 1}, {"echo": False}):
        answer = post(daemon, body | more).json()
        assert answer["usage"]["total_tokens"] == CONTEXT
        assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["text"] == ""
    for refused in ({"max_tokens": 1}, {"prompt": [70] * (CONTEXT + 1)}):
        error = post(daemon, body | refused).json()["error"]
        assert error["code"] == "context_length_exceeded"


def test_no_page_stays_reserved(daemon: FakeDaemon) -> None:
    before = daemon.model.free_pages
    post(daemon, {"prompt": "a" * 50, "max_tokens": 0, "logprobs": 1})
    while daemon.engine.running:
        pass
    assert daemon.model.free_pages == before
