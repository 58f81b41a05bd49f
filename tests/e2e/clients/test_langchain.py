"""LangChain's classes for OpenAI: ChatOpenAI and OpenAI."""

from typing import Any

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI

from support.keyed_daemon import KEY, LONG_ANSWER, PROMPT, QUESTION, TOO_LONG, KeyedDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture
def access(daemon: KeyedDaemon) -> dict[str, Any]:
    """What both classes are made with."""
    return {"base_url": daemon.base, "api_key": KEY, "model": "demo", "max_retries": 0}


def test_models(access: dict[str, Any]) -> None:
    """They have no list of their own; the client below them has."""
    assert [model.id for model in ChatOpenAI(**access).root_client.models.list()] == ["docs-llama"]


def test_completion(access: dict[str, Any]) -> None:
    answer = OpenAI(**access, max_tokens=12, temperature=0, logprobs=2).generate([PROMPT])
    [[generation]] = answer.generations
    assert "".join(generation.generation_info["logprobs"]["tokens"]) == generation.text != ""
    usage = answer.llm_output["token_usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_several_prompts_at_once(access: dict[str, Any]) -> None:
    model = OpenAI(**access, max_tokens=12, temperature=0)
    prompts = [PROMPT, "A trait"]
    assert model.batch(prompts) == [model.invoke(prompt) for prompt in prompts]


def test_chat(access: dict[str, Any]) -> None:
    message = ChatOpenAI(**access, max_tokens=24, seed=3, logprobs=True, top_logprobs=2).invoke(QUESTION)
    tokens = message.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == message.content != ""
    assert message.usage_metadata["total_tokens"] == (
        message.usage_metadata["input_tokens"] + message.usage_metadata["output_tokens"]
    )


def test_streamed_equals_whole(access: dict[str, Any]) -> None:
    model = ChatOpenAI(**access, max_tokens=40, seed=3, stream_usage=True)
    whole, chunks = model.invoke(QUESTION), list(model.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    [usage] = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usage["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_streamed_completion_equals_whole(access: dict[str, Any]) -> None:
    model = OpenAI(**access, max_tokens=40, seed=3)
    assert "".join(model.stream(PROMPT)) == model.invoke(PROMPT)


def test_stop(access: dict[str, Any]) -> None:
    model = OpenAI(**access, max_tokens=40, temperature=0)
    free = model.invoke(PROMPT)
    stop = free[len(free) // 2 :][:3]
    assert model.invoke(PROMPT, stop=[stop]) == free[: free.index(stop)]


def test_errors_have_the_clients_own_classes(access: dict[str, Any]) -> None:
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(**access | {"model": "gpt-4o"}).invoke(QUESTION)
    with pytest.raises(ContextOverflowError):
        ChatOpenAI(**access).invoke(TOO_LONG)
    with pytest.raises(openai.AuthenticationError):
        ChatOpenAI(**access | {"api_key": "wrong"}).invoke(QUESTION)


def test_a_stream_that_is_left_ends(daemon: KeyedDaemon, access: dict[str, Any]) -> None:
    model = ChatOpenAI(**access, max_tokens=LONG_ANSWER, extra_body={"ignore_eos": True})
    with daemon.sees_a_client_leave():
        stream = model.stream(QUESTION)
        next(stream)
        stream.close()
