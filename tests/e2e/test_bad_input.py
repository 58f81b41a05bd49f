"""Bad requests over a real connection: each gets a clear error, and nothing is lost."""

from collections.abc import Iterator

import httpx
import pytest

from support.daemon import RunningDaemon, running_daemon

pytestmark = pytest.mark.e2e

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
TARGET = "/v1/elastic/target"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), "--context", "256") as running:
        yield running


BAD: dict[str, tuple[str, bytes, str]] = {
    "no body": (TEXT, b"", "no body"),
    "cut JSON": (TEXT, b'{"prompt": "a', "not valid JSON"),
    "not UTF-8": (TEXT, b'{"prompt": "\xff"}', "not valid JSON"),
    "deep nesting": (TEXT, b'{"prompt": ' + b"[" * 100_000, "not valid JSON"),
    "endless number": (TEXT, b'{"prompt": "a", "seed": ' + b"1" * 10_000 + b"}", "not valid JSON"),
    "a list": (TEXT, b"[1]", "JSON object"),
    "wrong type": (TEXT, b'{"prompt": 5}', "prompt"),
    "negative": (TEXT, b'{"prompt": "a", "max_tokens": -5}', "max_tokens"),
    "huge": (TEXT, b'{"prompt": "a", "max_tokens": 1e400}', "max_tokens"),
    "not a number": (TEXT, b'{"prompt": "a", "temperature": NaN}', "temperature"),
    "seed too large": (TEXT, b'{"prompt": "a", "seed": 99999999999999999999}', "seed"),
    "token outside": (TEXT, b'{"prompt": [99999999]}', "vocabulary"),
    "several choices": (TEXT, b'{"prompt": "a", "n": 1000}', "1000 sequences"),
    "unsupported field": (TEXT, b'{"prompt": "a", "suffix": "b"}', "suffix"),
    "no messages": (CHAT, b'{"messages": []}', "messages"),
    "image": (CHAT, b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "text parts"),
    "unknown role": (CHAT, b'{"messages": [{"role": "robot", "content": "a"}]}', "role"),
    "tools": (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "tools": [{}]}', "tools"),
    "no wish": (TARGET, b"{}", "exactly one"),
    "two wishes": (TARGET, b'{"position": 1, "mode": "auto"}', "exactly one"),
    "position outside": (TARGET, b'{"position": 1000000}', "1000000"),
    "bytes below the range": (TARGET, b'{"bytes": 1}', "footprints range from"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_request_is_a_400_that_names_what_is_wrong(daemon: RunningDaemon, name: str) -> None:
    path, content, named = BAD[name]
    answer = httpx.post(daemon.url + path, content=content, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_prompt(daemon: RunningDaemon, stream: bool) -> None:
    answer = daemon.post(TEXT, {"prompt": "word " * 1000, "stream": stream})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "256" in error["message"]


def test_too_large_a_body(daemon: RunningDaemon) -> None:
    answer = daemon.post(TEXT, {"prompt": "x" * 5_000_000})
    assert answer.status_code == 413
    assert "--max-body" in answer.json()["error"]["message"]


def test_foreign_pages_are_kept_out(daemon: RunningDaemon) -> None:
    assert daemon.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert daemon.post(TARGET, {"position": 0}, headers={"origin": "https://evil.example"}).status_code == 403


def test_the_daemon_still_answers(daemon: RunningDaemon) -> None:
    answer = daemon.post(TEXT, {"prompt": "a", "max_tokens": 2, "ignore_eos": True})
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert "Traceback" not in daemon.log()
    assert daemon.process.poll() is None
