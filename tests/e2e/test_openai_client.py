"""The real `openai` package talks to the real daemon."""

from collections.abc import Iterator
from typing import Literal

import httpx
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam

from support.daemon import running_daemon

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with (
        running_daemon(tmp_path_factory.mktemp("daemon"), "--pin", "0") as daemon,
        openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="not needed", max_retries=0) as client,
    ):
        yield client


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.object == "model"
    found = client.models.retrieve("demo")
    assert found.id == "demo"
    assert found.model_extra is not None
    assert found.model_extra["root"] == model.id
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4o")
    assert refused.value.code == "model_not_found"


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="The function returns", max_tokens=12, temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_completion_defaults_to_16_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="A", extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_streamed_completion_equals_the_whole_one(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="The function", max_tokens=40, temperature=0)
    with client.completions.create(
        model="demo",
        prompt="The function",
        max_tokens=40,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a trait?"}],
        max_tokens=24,
        temperature=0,
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.system_fingerprint


def test_log_probabilities_of_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is a trait?"}],
        max_tokens=8,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert b"".join(bytes(token.bytes or []) for token in content).decode() == answer.choices[0].message.content
    for token in content:
        assert [likely.logprob for likely in token.top_logprobs] == sorted(
            (likely.logprob for likely in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].token == token.token, "temperature 0 takes the likeliest"


def test_an_echoed_prompt_is_scored_as_if_it_were_generated(client: openai.OpenAI) -> None:
    """The way in which evaluation harnesses score a continuation."""
    url = str(client.base_url.copy_with(path="/tokenize"))
    prompt = httpx.post(url, json={"prompt": "The function returns an iterator over the characters."}).json()["tokens"]
    scored = client.completions.create(model="demo", prompt=prompt, max_tokens=1, echo=True, logprobs=5).choices[0]
    assert scored.logprobs is not None
    assert scored.logprobs.tokens is not None
    assert scored.logprobs.top_logprobs is not None
    assert scored.logprobs.token_logprobs is not None
    assert len(scored.logprobs.tokens) == len(prompt) + 1
    assert scored.logprobs.token_logprobs[:1] == [None]
    for place in range(1, len(prompt)):
        after = client.completions.create(
            model="demo",
            prompt=prompt[:place],
            max_tokens=1,
            temperature=0,
            logprobs=5,
            extra_body={"ignore_eos": True},
        )
        assert after.choices[0].logprobs is not None
        assert after.choices[0].logprobs.top_logprobs is not None
        likeliest = after.choices[0].logprobs.top_logprobs[0]
        assert dict(scored.logprobs.top_logprobs[place]) | likeliest == scored.logprobs.top_logprobs[place]


def test_streamed_chat_equals_the_whole_one(client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a trait?"}]}
    ]
    whole = client.chat.completions.create(model="demo", messages=messages, max_completion_tokens=32, seed=3)
    with client.chat.completions.create(
        model="demo", messages=messages, max_completion_tokens=32, seed=3, stream=True
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_stop_strings(client: openai.OpenAI) -> None:
    free = client.completions.create(model="demo", prompt="The function", max_tokens=40, temperature=0).choices[0].text
    stop = free[len(free) // 2 :][:3]
    cut = client.completions.create(model="demo", prompt="The function", max_tokens=40, temperature=0, stop=[stop])
    assert cut.choices[0].text == free[: free.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_errors_have_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="demo", prompt="word " * 5000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "x"}], n=1000)
    assert refused.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4o", prompt="x")


class Module(pydantic.BaseModel):
    """What an answer is asked to be."""

    kind: Literal["library", "program"]
    functions: int = pydantic.Field(ge=0, le=500)
    about: str | None = pydantic.Field(max_length=20)


def test_structured_answers_become_the_model_that_they_were_asked_for(client: openai.OpenAI) -> None:
    question: ChatCompletionMessageParam = {"role": "user", "content": "Describe the module."}
    answer = client.chat.completions.parse(model="demo", messages=[question], response_format=Module, max_tokens=300)
    assert isinstance(answer.choices[0].message.parsed, Module)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="demo",
            messages=[question],
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}},
        )
    assert refused.value.param == "response_format"
