"""Whatever is sent: OpenAI's envelope comes back, never a 422, never a 500."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.api_types import REFUSED_BY_CHAT, REFUSED_BY_COMPLETIONS
from support.fake_daemon import FakeDaemon, fake_daemon

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/elastic/target", "/tokenize", "/detokenize")
JSON_HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon("--max-body", "100k") as running:
        yield running


def request(daemon: FakeDaemon, method: str, path: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


def check_envelope(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    assert isinstance(error, dict)
    return error


# Bodies ---------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([2**31, 2**63, 10**30, -(2**63)])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "\x00", "auto", "user", "text", "demo"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "tool"]) | VALUES,
            "content": st.text() | VALUES,
        },
    ),
    max_size=3,
)
KNOWN = {
    "model": st.just("demo") | VALUES,
    "prompt": st.text(max_size=20) | st.lists(st.integers(-1, 5000), max_size=5) | VALUES,
    "messages": MESSAGES | VALUES,
    "max_tokens": st.integers(-1, 8) | VALUES,
    "max_completion_tokens": st.integers(-1, 8) | VALUES,
    "temperature": st.floats(-1, 3) | VALUES,
    "top_p": st.floats(-1, 2) | VALUES,
    "top_k": st.integers(-1, 10) | VALUES,
    "min_p": st.floats(-1, 2) | VALUES,
    "presence_penalty": st.floats(-3, 3) | VALUES,
    "frequency_penalty": st.floats(-3, 3) | VALUES,
    "repetition_penalty": st.floats(-1, 3) | VALUES,
    "logit_bias": st.dictionaries(st.integers(-1, 5000).map(str), st.floats(-101, 101), max_size=3) | VALUES,
    "logprobs": st.booleans() | st.integers(-1, 6) | VALUES,
    "seed": st.integers() | VALUES,
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=20) | VALUES,
    "stream": st.booleans() | VALUES,
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | VALUES,
    "n": st.integers(-1, 3) | VALUES,
    "ignore_eos": st.booleans() | VALUES,
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema"]) | VALUES},
        optional={
            "json_schema": st.fixed_dictionaries(
                {"name": st.just("a") | VALUES},
                optional={
                    "schema": st.dictionaries(st.sampled_from(["type", "enum", "items", "not"]), VALUES) | VALUES
                },
            )
        },
    )
    | VALUES,
    "structured_outputs": st.dictionaries(st.sampled_from(["regex", "choice", "grammar", "json"]), VALUES, max_size=2)
    | VALUES,
    "tokens": st.lists(st.integers(-1, 5000), max_size=5) | VALUES,
    "add_special_tokens": st.booleans() | VALUES,
    "position": st.integers(-1, 5) | VALUES,
    "bytes": st.integers(-1, 5000) | VALUES,
    "mode": st.just("auto") | VALUES,
    "worst_position": st.integers(-1, 5) | VALUES,
    "ttl_seconds": st.floats() | VALUES,
    **dict.fromkeys([*REFUSED_BY_COMPLETIONS, *REFUSED_BY_CHAT], VALUES),
}
# A short answer by default, so that the bodies that are right do not take long.
BODIES = st.fixed_dictionaries({}, optional=KNOWN).map(lambda body: {"max_tokens": 2, "prompt": "a"} | body) | VALUES


@given(st.sampled_from(PATHS), BODIES)
@settings(deadline=None, max_examples=400)
def test_any_json_gets_an_answer_or_an_envelope(daemon: FakeDaemon, path: str, body: object) -> None:
    answer = request(daemon, "POST", path, content=json.dumps(body), headers=JSON_HEADERS)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        check_envelope(answer)


@given(st.sampled_from(PATHS), st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode()))
@settings(deadline=None, max_examples=100)
def test_any_bytes_get_an_envelope(daemon: FakeDaemon, path: str, content: bytes) -> None:
    answer = request(daemon, "POST", path, content=content, headers=JSON_HEADERS)
    assert answer.status_code == 400
    check_envelope(answer)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "a",}',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b"[" * 50_000,
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'"text"',
        b"null",
    ],
)
def test_malformed_json_is_a_400(daemon: FakeDaemon, content: bytes) -> None:
    for path in PATHS:
        answer = request(daemon, "POST", path, content=content, headers=JSON_HEADERS)
        assert answer.status_code == 400
        assert "JSON" in check_envelope(answer)["message"]


def test_another_content_type_is_a_400_that_names_the_right_one(daemon: FakeDaemon) -> None:
    answer = request(daemon, "POST", PATHS[0], content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in check_envelope(answer)["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "stop": [1]}, "stop"),
        ({"prompt": "a", "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"prompt": "a", "tools": [1]}, "tools"),
        ({}, "prompt"),
    ],
)
def test_validation_error_names_the_field_and_does_not_repeat_the_value(
    daemon: FakeDaemon, body: dict[str, Any], param: str
) -> None:
    answer = request(daemon, "POST", PATHS[0], json=body)
    assert answer.status_code == 400
    error = check_envelope(answer)
    assert error["param"] == param
    assert param in error["message"]
    assert "hot" not in error["message"]


def test_unknown_path_and_method_are_in_the_envelope(daemon: FakeDaemon) -> None:
    missing = request(daemon, "GET", "/v1/nothing")
    assert (missing.status_code, check_envelope(missing)["type"]) == (404, "invalid_request_error")
    wrong = request(daemon, "GET", PATHS[0])
    assert (wrong.status_code, check_envelope(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert request(daemon, "POST", "/v1/completions/", json={"prompt": "a"}).status_code == 404, "not another page"


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/docs-llama"])
def test_head_is_answered_like_get(daemon: FakeDaemon, path: str) -> None:
    assert request(daemon, "HEAD", path).status_code == request(daemon, "GET", path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_options_gives_no_page_leave(daemon: FakeDaemon, path: str) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = request(daemon, "OPTIONS", path, headers=headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_large_body_is_a_413(daemon: FakeDaemon) -> None:
    answer = request(daemon, "POST", PATHS[0], json={"prompt": "a" * 200_000})
    assert answer.status_code == 413
    assert "102400 bytes" in check_envelope(answer)["message"]


def test_ready_turns_503_when_the_engine_stops() -> None:
    with fake_daemon() as daemon:
        assert request(daemon, "GET", "/ready").status_code == 200
        daemon.engine.stop("The daemon is stopping.")
        answer = request(daemon, "GET", "/ready")
        assert answer.status_code == 503
        check_envelope(answer)
        assert request(daemon, "GET", "/health").status_code == 200
        assert request(daemon, "POST", PATHS[0], json={"prompt": "a"}).status_code == 503


def test_each_request_is_one_log_line_without_its_words(daemon: FakeDaemon, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="flexquant"):
        answer = request(daemon, "POST", PATHS[0], json={"prompt": "a private matter", "max_tokens": 3})
        request(daemon, "POST", PATHS[1], json={"messages": "a private matter"})
        request(daemon, "GET", "/health")
    first, second = caplog.messages
    assert answer.headers["x-request-id"] in first
    for part in ("path='/v1/completions'", "status=200", "prompt_tokens=", "completion_tokens=3", "position_start="):
        assert part in first
    assert "status=400" in second
    assert "private" not in caplog.text


def test_elastic_target_and_state() -> None:
    with fake_daemon() as daemon:
        state = request(daemon, "POST", PATHS[2], json={"position": 3, "ttl_seconds": 1000}).json()
        assert (state["position"], state["mode"], state["footprint_bytes"]) == (3, "pinned", 1000)
        assert state["quality"] == {"perplexity": 13.0, "kl": pytest.approx(0.3)}
        assert request(daemon, "POST", PATHS[2], json={"bytes": 2500}).json()["position"] == 2
        assert request(daemon, "GET", "/v1/elastic").json()["position"] == 2
        for body in ({"position": 4}, {"bytes": 999}, {"worst_position": 4}):
            answer = request(daemon, "POST", PATHS[2], json=body)
            assert answer.status_code == 400
            check_envelope(answer)
        assert request(daemon, "POST", PATHS[2], json={"position": 0}).json()["position"] == 0
        assert request(daemon, "POST", PATHS[2], json={"mode": "auto"}).json()["mode"] == "auto"
