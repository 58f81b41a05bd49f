"""The program `llm`, with models from its extra-openai-models.yaml."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.keyed_daemon import KEY, LONG_ANSWER, PROMPT, QUESTION, TOO_LONG, KeyedDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

MODELS = """\
- {{model_id: flexquant, model_name: demo, api_base: "{base}", api_key_name: flexquant}}
- {{model_id: flexquant-text, model_name: demo, api_base: "{base}", api_key_name: flexquant, completion: true}}
- {{model_id: unknown, model_name: gpt-4o, api_base: "{base}", api_key_name: flexquant}}
"""
END_OF_SEQUENCE = 1
"""The demo model's token."""
SAMPLED = ("-o", "max_tokens", "40", "-o", "seed", "3")
GREEDY = ("-o", "max_tokens", "40", "-o", "temperature", "0")


class Llm:
    """The program, with a folder of its own.

    Args:
        home: That folder.
        base: Base URL of the daemon.
    """

    def __init__(self, home: Path, base: str) -> None:
        (home / "extra-openai-models.yaml").write_text(MODELS.format(base=base))
        self._environment = {**os.environ, "LLM_USER_PATH": str(home)}
        self("keys", "set", "flexquant", "--value", KEY)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """A process that runs."""
        return subprocess.Popen(
            [sys.executable, "-m", "llm", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )

    def failing(self, *arguments: str) -> str:
        """What it says when it fails."""
        with self.started(*arguments) as process:
            said, complaint = process.communicate(timeout=120)
        assert process.returncode == 1, said
        return complaint

    def __call__(self, *arguments: str) -> str:
        """What it prints."""
        with self.started(*arguments) as process:
            said, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
        return said.removesuffix("\n")


@pytest.fixture(scope="module")
def llm(daemon: KeyedDaemon, tmp_path_factory: pytest.TempPathFactory) -> Llm:
    return Llm(tmp_path_factory.mktemp("llm"), daemon.base)


def test_models(llm: Llm) -> None:
    assert {"flexquant", "flexquant-text"} <= set(re.findall(r": (flexquant\S*)", llm("models")))


def test_chat_streamed_equals_whole_and_its_usage_is_logged(llm: Llm) -> None:
    whole = llm("-m", "flexquant", QUESTION, "--no-stream", *SAMPLED)
    assert llm("-m", "flexquant", QUESTION, *SAMPLED) == whole != ""
    streamed, unstreamed = json.loads(llm("logs", "--json", "-n", "2"))
    for name in ("input_tokens", "output_tokens"):
        assert streamed[name] == unstreamed[name] > 0


def test_completion_and_stop(llm: Llm) -> None:
    free = llm("-m", "flexquant-text", PROMPT, *GREEDY)
    assert llm("-m", "flexquant-text", PROMPT, "--no-stream", *GREEDY) == free != ""
    stop = free[len(free) // 2 :][:3]
    assert llm("-m", "flexquant-text", PROMPT, *GREEDY, "-o", "stop", stop) == free[: free.index(stop)]


def test_log_probabilities_of_a_completion_are_kept(llm: Llm) -> None:
    llm("-m", "flexquant-text", PROMPT, *GREEDY, "-o", "logprobs", "2")
    [entry] = json.loads(llm("logs", "--json", "-n", "1"))
    assert entry["response_json"]["logprobs"]


def test_errors_are_told_in_the_daemons_words(llm: Llm) -> None:
    """It has one class for all errors, and shows their status and message."""
    assert "404 - model: 'gpt-4o' is not served here" in llm.failing("-m", "unknown", QUESTION)
    assert "400 - This model's maximum context length is" in llm.failing("-m", "flexquant", TOO_LONG)
    assert "401 - A valid API key is needed" in llm.failing("-m", "flexquant", QUESTION, "--key", "wrong")


def test_interrupted_it_ends_the_stream(daemon: KeyedDaemon, llm: Llm) -> None:
    never_ending = ("-o", "max_tokens", str(LONG_ANSWER), "-o", "logit_bias", json.dumps({END_OF_SEQUENCE: -100}))
    before = daemon.clients_that_left()
    with daemon.sees_a_client_leave():
        for _ in range(5):  # the whole answer takes a second or two, and llm now and then as long to end
            process = llm.started("-m", "flexquant-text", PROMPT, *never_ending)
            daemon.wait_until_it_answers()  # not for text: llm may hold it back until the answer is complete
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
            if daemon.clients_that_left() > before:
                break
