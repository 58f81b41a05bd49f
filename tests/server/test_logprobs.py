"""Log-probabilities in answers: OpenAI's two shapes, streamed and whole, with stop strings and parts of characters."""

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.logprobs import TokenScore
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.logprob_fields import chat_logprobs, completion_logprobs
from flexquant.server.token_marks import MarkedToken
from support.fake_daemon import FakeDaemon, fake_daemon
from support.fake_model import DOCS_LLAMA, next_token

Json = dict[str, Any]
TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]
VOCAB = 4096
LIKELIEST = -math.log1p((VOCAB - 1) * math.exp(-50))
"""Of the fake model's choice, which has a logit of 50; the others have 0."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


def post(daemon: FakeDaemon, path: str, body: object) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            return await client.post(path, json=body)

    return asyncio.run(run())


def choice(daemon: FakeDaemon, path: str, body: Json) -> Json:
    answer = post(daemon, path, body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0])


def streamed(daemon: FakeDaemon, path: str, body: Json) -> list[Json]:
    """The first choice of every chunk."""
    lines = post(daemon, path, body | {"stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and not line.endswith("[DONE]")]
    return [chunk["choices"][0] for chunk in chunks]


def test_a_completion_has_lists_with_one_item_for_each_token(daemon: FakeDaemon) -> None:
    found = choice(daemon, TEXT, {"prompt": [70], "max_tokens": 3, "temperature": 0, "logprobs": 2})
    tokens = [70]
    for length in (1, 2, 3):
        tokens.append(next_token(tokens[-1], length))
    texts = [daemon.tokenizer.decode([token]) for token in tokens[1:]]
    first = daemon.tokenizer.spelling(0)
    assert found["text"] == "".join(texts)
    assert found["logprobs"] == {
        "tokens": texts,
        "token_logprobs": [pytest.approx(LIKELIEST)] * 3,
        "top_logprobs": [{text: pytest.approx(LIKELIEST), first: pytest.approx(LIKELIEST - 50)} for text in texts],
        "text_offset": [0, len(texts[0]), len(texts[0] + texts[1])],
    }


def test_a_chat_has_an_object_for_each_token(daemon: FakeDaemon) -> None:
    body = {"messages": USER, "max_tokens": 4, "temperature": 0, "logprobs": True}
    plain = choice(daemon, CHAT, body)
    assert plain["logprobs"]["refusal"] is None
    for entry in plain["logprobs"]["content"]:
        assert entry["logprob"] == pytest.approx(LIKELIEST)
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["top_logprobs"] == []
    assert "".join(entry["token"] for entry in plain["logprobs"]["content"]) == plain["message"]["content"]
    top = choice(daemon, CHAT, body | {"top_logprobs": 20})
    for entry in top["logprobs"]["content"]:
        assert len(entry["top_logprobs"]) == 20
        assert entry["top_logprobs"][0] == {key: entry[key] for key in ("token", "logprob", "bytes")}


def test_who_does_not_ask_gets_none(daemon: FakeDaemon) -> None:
    for path, body in ((TEXT, {"prompt": "a"}), (CHAT, {"messages": USER, "logprobs": False})):
        assert choice(daemon, path, body | {"max_tokens": 2})["logprobs"] is None
        assert all(part["logprobs"] is None for part in streamed(daemon, path, body | {"max_tokens": 2}))


def test_scores_are_of_the_models_own_distribution(daemon: FakeDaemon) -> None:
    """Temperature, penalties and biases choose another token, but its log-probability is what the model gave it."""
    [forced] = daemon.tokenizer.encode("x", bos=False)
    body = {"prompt": [70], "max_tokens": 2, "temperature": 0.5, "logit_bias": {str(forced): 100}, "logprobs": 0}
    found = choice(daemon, TEXT, body)["logprobs"]
    assert found["tokens"] == ["x", "x"]
    assert found["token_logprobs"] == [pytest.approx(LIKELIEST - 50)] * 2
    assert found["top_logprobs"] == [{"x": pytest.approx(LIKELIEST - 50)}] * 2, "the token itself is always there"


@given(count=st.integers(1, 30), first=st.integers(64, 4000), data=st.data())
@settings(deadline=None, max_examples=40)
def test_streamed_scores_equal_the_whole_ones_and_end_where_the_text_does(
    daemon: FakeDaemon, count: int, first: int, data: st.DataObject
) -> None:
    body: Json = {"prompt": [first], "max_tokens": count, "logprobs": 1}
    full = choice(daemon, TEXT, body)
    start = data.draw(st.integers(0, max(len(full["text"]) - 1, 0)))
    stop = full["text"][start : start + data.draw(st.integers(1, 5))]
    body |= {"stop": [stop] if stop else []}
    whole, parts = choice(daemon, TEXT, body), streamed(daemon, TEXT, body)
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [item for part in parts if part["logprobs"] for item in part["logprobs"][name]]
        assert joined == whole["logprobs"][name]
        assert joined == full["logprobs"][name][: len(joined)], "a stop string only cuts"
    assert len(full["logprobs"]["tokens"]) == count
    if whole["finish_reason"] == "length":
        assert whole["logprobs"] == full["logprobs"]
    else:
        assert len(whole["logprobs"]["tokens"]) == sum(
            offset < len(whole["text"]) for offset in full["logprobs"]["text_offset"]
        )
    said = 0
    for part in parts:
        said += len(part["text"])
        offsets = part["logprobs"]["text_offset"] if part["logprobs"] else []
        assert part["finish_reason"] or all(offset <= said for offset in offsets), "no token before its text"


def test_choices_have_their_own_scores(daemon: FakeDaemon) -> None:
    body = {"prompt": [[70], [90, 91]], "n": 2, "max_tokens": 3, "temperature": 0, "logprobs": 0}
    choices = post(daemon, TEXT, body).json()["choices"]
    for found in choices:
        assert "".join(found["logprobs"]["tokens"]) == found["text"]


def test_parts_of_a_character_have_their_exact_bytes() -> None:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    ids = tokenizer.encode("🎉", bos=False)
    assert len(ids) > 1, "it is made of several tokens"
    marked = [MarkedToken(TokenScore(id_, -1.0, ((id_, -1.0),)), 0) for id_ in ids]
    content = chat_logprobs(marked, tokenizer)["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == "🎉"
    assert bytes(content[0]["top_logprobs"][0]["bytes"]) == tokenizer.token_bytes(ids[0])
    names = completion_logprobs(marked, tokenizer)["tokens"]
    assert "".join(name.removeprefix("bytes:") for name in names) == "".join(f"\\x{byte:02x}" for byte in "🎉".encode())
    assert json.loads(json.dumps(names)) == names


def test_tokens_that_stand_for_no_text_are_spelled_and_have_no_bytes() -> None:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    assert tokenizer.bos_id is not None
    marked = [MarkedToken(TokenScore(token, -1.0, ()), 0) for token in (tokenizer.bos_id, 10**6)]
    content = chat_logprobs(marked, tokenizer)["content"]
    assert [entry["token"] for entry in content] == [tokenizer.bos_token, "token_id:1000000"]
    assert [entry["bytes"] for entry in content] == [None, None]
    assert completion_logprobs(marked, tokenizer)["tokens"] == [tokenizer.bos_token, "token_id:1000000"]


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        (TEXT, {"prompt": "a", "logprobs": 6}, "logprobs", "5"),
        (TEXT, {"prompt": "a", "logprobs": -1}, "logprobs", "0"),
        (TEXT, {"prompt": "a", "logprobs": True}, "logprobs", "integer"),
        (TEXT, {"prompt": "a", "logprobs": 1, "top_logprobs": 1}, "top_logprobs", "use logprobs"),
        (CHAT, {"messages": USER, "logprobs": 3}, "logprobs", "boolean"),
        (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs", "needs `logprobs: true`"),
        (CHAT, {"messages": USER, "logprobs": False, "top_logprobs": 0}, "top_logprobs", "needs `logprobs: true`"),
    ],
)
def test_limits_are_stated(daemon: FakeDaemon, path: str, body: Json, param: str, said: str) -> None:
    answer = post(daemon, path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert said in error["message"]
