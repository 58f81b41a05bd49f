"""The npm package `openai` under Node."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.keyed_daemon import KEY, KeyedDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

NODE = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="module")
def said(daemon: KeyedDaemon) -> dict[str, Any]:
    """What the script prints; it leaves an answer in the middle, too."""
    with daemon.sees_a_client_leave():
        script = subprocess.run(
            ["node", str(NODE / "client.mjs"), daemon.base, KEY], capture_output=True, text=True, timeout=200
        )
    assert script.returncode == 0, script.stderr
    return dict(json.loads(script.stdout))


def test_models(said: dict[str, Any]) -> None:
    assert said["models"] == ["docs-llama"]


def test_completion(said: dict[str, Any]) -> None:
    usage, [choice] = said["completion"]["usage"], said["completion"]["choices"]
    assert choice["text"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["token_logprobs"])
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_chat(said: dict[str, Any]) -> None:
    [choice] = said["chat"]["choices"]
    assert choice["message"]["role"] == "assistant"
    content = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"])
    assert content.decode() == choice["message"]["content"] != ""
    assert all(len(token["top_logprobs"]) == 2 for token in choice["logprobs"]["content"])


def test_streamed_equals_whole(said: dict[str, Any]) -> None:
    *parts, last = said["completionChunks"]
    [whole] = said["completion"]["choices"]
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["text"]
    assert last["usage"]["completion_tokens"] == said["completion"]["usage"]["completion_tokens"]
    deltas = [part["choices"][0]["delta"].get("content", "") for part in said["chatChunks"]]
    assert "".join(deltas) == said["chat"]["choices"][0]["message"]["content"]


def test_stop(said: dict[str, Any]) -> None:
    assert said["stopped"]["text"] == said["free"][: said["free"].index(said["stop"])]
    assert said["stopped"]["finish_reason"] == "stop"


def test_errors_have_the_clients_own_classes(said: dict[str, Any]) -> None:
    assert said["errors"]["model"] == {
        "class": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }
    assert (said["errors"]["context"]["class"], said["errors"]["context"]["code"]) == (
        "BadRequestError",
        "context_length_exceeded",
    )
    assert (said["errors"]["key"]["class"], said["errors"]["key"]["code"]) == ("AuthenticationError", "invalid_api_key")


def test_a_stream_that_is_left_ends(said: dict[str, Any]) -> None:
    assert said["partsBeforeLeaving"] == 1
