"""litellm, as a library."""

import litellm
import pytest

from support.keyed_daemon import KEY, LONG_ANSWER, PROMPT, QUESTION, TOO_LONG, KeyedDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

CHAT = "openai/demo"
TEXT = "text-completion-openai/demo"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def access(daemon: KeyedDaemon) -> dict[str, str]:
    """Where the daemon is, as each call says it."""
    return {"api_base": daemon.base, "api_key": KEY}


def test_models(access: dict[str, str]) -> None:
    found = litellm.get_valid_models(check_provider_endpoint=True, custom_llm_provider="openai", **access)
    assert found == ["docs-llama"]


def test_completion(access: dict[str, str]) -> None:
    answer = litellm.text_completion(model=TEXT, prompt=PROMPT, max_tokens=12, temperature=0, logprobs=2, **access)
    [choice] = answer.choices
    assert choice.text
    assert "".join(choice.logprobs.tokens) == choice.text
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat(access: dict[str, str]) -> None:
    answer = litellm.completion(CHAT, MESSAGES, max_tokens=24, seed=3, logprobs=True, top_logprobs=2, **access)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content != ""
    assert answer.usage.completion_tokens >= len(choice.logprobs.content)


def test_streamed_equals_whole(access: dict[str, str]) -> None:
    whole = litellm.completion(CHAT, MESSAGES, max_tokens=40, seed=3, **access)
    chunks = list(
        litellm.completion(
            CHAT, MESSAGES, max_tokens=40, seed=3, stream=True, stream_options={"include_usage": True}, **access
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_streamed_completion_equals_whole(access: dict[str, str]) -> None:
    whole = litellm.text_completion(model=TEXT, prompt=PROMPT, max_tokens=40, seed=3, **access)
    chunks = litellm.text_completion(model=TEXT, prompt=PROMPT, max_tokens=40, seed=3, stream=True, **access)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == whole.choices[0].text


def test_stop(access: dict[str, str]) -> None:
    greedy = {"model": TEXT, "prompt": PROMPT, "max_tokens": 40, "temperature": 0, **access}
    free = litellm.text_completion(**greedy).choices[0].text
    stop = free[len(free) // 2 :][:3]
    cut = litellm.text_completion(**greedy, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (free[: free.index(stop)], "stop")


def test_errors_have_the_clients_own_classes(access: dict[str, str]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion("openai/gpt-4o", MESSAGES, **access)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(CHAT, [{"role": "user", "content": TOO_LONG}], **access)
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(CHAT, MESSAGES, **access | {"api_key": "wrong"})


def test_a_stream_that_is_left_ends(daemon: KeyedDaemon, access: dict[str, str]) -> None:
    with daemon.sees_a_client_leave():
        stream = litellm.completion(
            CHAT, MESSAGES, max_tokens=LONG_ANSWER, stream=True, extra_body={"ignore_eos": True}, **access
        )
        assert next(stream).choices
        stream.completion_stream.close()
