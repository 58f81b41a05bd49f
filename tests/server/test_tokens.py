"""POST /tokenize and /detokenize: what completions would take in, and the way back."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_daemon import CONTEXT, FakeDaemon, fake_daemon

Json = dict[str, Any]
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
USER = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


def post(daemon: FakeDaemon, path: str, body: object, **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client(**headers) as client:
            return await client.post(path, json=body)

    return asyncio.run(run())


@given(text=st.text(max_size=40))
@settings(deadline=None, max_examples=50)
def test_there_and_back(daemon: FakeDaemon, text: str) -> None:
    found = post(daemon, TOKENIZE, {"prompt": text}).json()
    assert found == {"count": len(found["tokens"]), "max_model_len": CONTEXT, "tokens": found["tokens"]}
    assert found["tokens"] == daemon.tokenizer.encode(text, bos=True)
    assert post(daemon, DETOKENIZE, {"tokens": found["tokens"]}).json() == {"prompt": text}


def test_it_counts_what_the_other_endpoints_take_in(daemon: FakeDaemon) -> None:
    for path, body in (("/v1/completions", {"prompt": "Hello"}), ("/v1/chat/completions", {"messages": USER})):
        usage = post(daemon, path, body | {"max_tokens": 1}).json()["usage"]
        assert post(daemon, TOKENIZE, body).json()["count"] == usage["prompt_tokens"]


def test_special_tokens_can_be_left_out(daemon: FakeDaemon) -> None:
    framed = post(daemon, TOKENIZE, {"prompt": "Hello", "add_special_tokens": True}).json()["tokens"]
    bare = post(daemon, TOKENIZE, {"prompt": "Hello", "add_special_tokens": False}).json()["tokens"]
    assert framed == [daemon.tokenizer.bos_id, *bare]
    assert post(daemon, TOKENIZE, {"prompt": "", "add_special_tokens": False}).json()["count"] == 0
    assert post(daemon, DETOKENIZE, {"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (TOKENIZE, {}, "prompt"),
        (TOKENIZE, {"prompt": "a", "messages": USER}, "prompt"),
        (TOKENIZE, {"prompt": 5}, "prompt"),
        (TOKENIZE, {"messages": []}, "messages"),
        (TOKENIZE, {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        (DETOKENIZE, {}, "tokens"),
        (DETOKENIZE, {"tokens": "a"}, "tokens"),
        (DETOKENIZE, {"tokens": [4096]}, "tokens"),
        (DETOKENIZE, {"tokens": [-1]}, "tokens.0"),
    ],
)
def test_what_cannot_be_done_is_a_400(daemon: FakeDaemon, path: str, body: Json, param: str) -> None:
    answer = post(daemon, path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(("path", "body"), [(TOKENIZE, {"prompt": "a"}), (DETOKENIZE, {"tokens": [70]})])
def test_models_keys_and_limits_are_as_everywhere(daemon: FakeDaemon, path: str, body: Json) -> None:
    assert post(daemon, path, body | {"model": "demo"}).status_code == 200
    assert post(daemon, path, body | {"model": "gpt-4o"}).status_code == 404
    with fake_daemon("--api-key", "secret", "--max-body", "1k") as locked:
        assert post(locked, path, body).status_code == 401
        assert post(locked, path, body, authorization="Bearer secret").status_code == 200
        large = {"prompt": "a" * 2000, "tokens": [70] * 1000}
        assert post(locked, path, large, authorization="Bearer secret").status_code == 413


def test_of_a_conversation_the_template_decides_whether_it_begins_with_bos() -> None:
    """As in transformers. It is never doubled."""
    with fake_daemon(chat_template="{{ messages[0].content }}") as daemon:
        bare = daemon.tokenizer.encode("Hello", bos=False)
        for more, expected in (({}, bare), ({"add_special_tokens": True}, [daemon.tokenizer.bos_id, *bare])):
            assert post(daemon, TOKENIZE, {"messages": USER, **more}).json()["tokens"] == expected
        answer = post(daemon, "/v1/chat/completions", {"messages": USER, "max_tokens": 1}).json()
        assert answer["usage"]["prompt_tokens"] == len(bare)
    with fake_daemon() as daemon:
        found = post(daemon, TOKENIZE, {"messages": USER, "add_special_tokens": True}).json()["tokens"]
        assert found.count(daemon.tokenizer.bos_id) == 1


def test_a_model_without_chat_template_says_so() -> None:
    with fake_daemon(chat_template=False) as daemon:
        answer = post(daemon, TOKENIZE, {"messages": USER})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_chat_template")
