"""Completions and chat completions over a fake model: shapes, streaming, stop strings, limits."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server import generate
from flexquant.server.stop_strings import StopMatcher
from flexquant.server.streaming import HEARTBEAT
from support.fake_daemon import CONTEXT, FakeDaemon, fake_daemon
from support.fake_model import next_token
from support.llama_2_like import write_llama_2_like

Json = dict[str, Any]
TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


async def _post(daemon: FakeDaemon, path: str, body: object) -> httpx.Response:
    async with daemon.client() as client:
        return await client.post(path, json=body)


def post(daemon: FakeDaemon, path: str, body: object) -> httpx.Response:
    return asyncio.run(_post(daemon, path, body))


def events(answer: httpx.Response) -> list[Json]:
    """The chunks of a streamed answer, which must end with [DONE]."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, done = [line for line in answer.text.split("\n\n") if line]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def expected_text(daemon: FakeDaemon, prompt: list[int], count: int) -> str:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens[-1], len(tokens)))
    return daemon.tokenizer.decode(tokens[len(prompt) :])


def test_completion_has_openais_shape_and_the_models_text(daemon: FakeDaemon) -> None:
    answer = post(daemon, TEXT, {"model": "demo", "prompt": "Hello", "max_tokens": 5})
    assert answer.status_code == 200
    assert answer.headers["x-flexquant-position"] == "0"
    body = answer.json()
    prompt = daemon.tokenizer.encode("Hello", bos=True)
    assert body["id"] == f"cmpl-{answer.headers['x-request-id']}"
    assert body["object"] == "text_completion"
    assert body["model"] == "docs-llama"
    assert body["system_fingerprint"] == "fqtest-p0"
    assert body["choices"] == [
        {"index": 0, "text": expected_text(daemon, prompt, 5), "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 5,
        "total_tokens": len(prompt) + 5,
        "prompt_tokens_details": {"cached_tokens": 0},
        "flexquant": {"position_start": 0, "position_end": 0, "position_worst": 0},
    }


def test_chat_has_openais_shape(daemon: FakeDaemon) -> None:
    body = post(daemon, CHAT, {"model": "demo", "messages": USER, "max_tokens": 5}).json()
    prompt = daemon.tokenizer.encode("<|begin|><|user|>Hello<|end|><|assistant|>", special=True, bos=False)
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": expected_text(daemon, prompt, 5),
        "refusal": None,
    }
    assert body["usage"]["prompt_tokens"] == len(prompt), "BOS is there once"


@pytest.mark.parametrize("echo", [False, True])
def test_a_completion_goes_on_in_the_prompts_text(tmp_path: Path, echo: bool) -> None:
    """Tokenizers like Llama 2's put a space before a text and take one away; the model's own stays."""
    write_llama_2_like(tmp_path, tokens=4096)
    with fake_daemon(tokenizer_folder=tmp_path) as daemon:
        daemon.model.script = daemon.tokenizer.encode("a b", bos=False)[:2]
        asked: list[tuple[str, Json]] = [(TEXT, {"prompt": "b"}), (TEXT, {"prompt": [1]}), (CHAT, {"messages": USER})]
        whole, alone, chat = (
            post(daemon, path, {**body, "max_tokens": 2, "echo": echo and path == TEXT}).json()["choices"][0]
            for path, body in asked
        )
        assert whole["text"] == ("b a " if echo else " a ")
        assert alone["text"] == "a ", "nothing goes before it"
        assert chat["message"]["content"] == "a "


def test_streamed_chat_begins_with_the_role_and_ends_with_the_reason(daemon: FakeDaemon) -> None:
    chunks = events(post(daemon, CHAT, {"messages": USER, "max_tokens": 5, "stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_is_streamed_on_request_in_a_last_chunk_without_choices(daemon: FakeDaemon) -> None:
    body = {"prompt": "a", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(post(daemon, TEXT, body))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["flexquant"]["position_worst"] == 0


def test_a_stream_that_waits_for_its_prompt_is_kept_alive(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "HEARTBEAT_S", 0.01)

    async def run() -> httpx.Response:
        daemon.model.gate.clear()
        request = asyncio.create_task(_post(daemon, CHAT, {"messages": USER, "max_tokens": 5, "stream": True}))
        await asyncio.to_thread(daemon.model.at_gate.wait, 30)
        await asyncio.sleep(0.1)
        daemon.model.gate.set()
        return await request

    opening, *others = [part for part in asyncio.run(run()).text.split("\n\n") if part]
    assert '"role":"assistant"' in opening
    assert others[0] == HEARTBEAT.strip()
    assert others[-1] == "data: [DONE]"
    assert sum(part.startswith("data: {") for part in others) == 6


@given(st.text(max_size=20), st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=60)
def test_streamed_text_equals_the_whole_text_cut_at_the_first_stop(
    daemon: FakeDaemon, prompt: str, count: int, data: st.DataObject
) -> None:
    full = expected_text(daemon, daemon.tokenizer.encode(prompt, bos=True), count)
    starts = st.integers(0, max(len(full) - 1, 0))
    pieces = starts.flatmap(lambda start: st.integers(1, 6).map(lambda length: full[start : start + length]))
    stops = data.draw(st.lists(pieces.filter(bool) if full else st.just("x"), max_size=4))
    matcher = StopMatcher(stops)
    wanted = "".join(matcher.push(character) for character in full if not matcher.stopped)
    wanted += "" if matcher.stopped else matcher.flush()
    reason = "stop" if matcher.stopped else "length"

    body: Json = {"prompt": prompt, "max_tokens": count, "stop": stops}
    whole = post(daemon, TEXT, body).json()
    chunks = events(post(daemon, TEXT, body | {"stream": True}))
    assert (whole["choices"][0]["text"], whole["choices"][0]["finish_reason"]) == (wanted, reason)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == wanted
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


def test_completions_default_to_16_tokens_and_chat_to_the_rest_of_the_context(daemon: FakeDaemon) -> None:
    assert post(daemon, TEXT, {"prompt": "a"}).json()["usage"]["completion_tokens"] == 16
    assert post(daemon, CHAT, {"messages": USER}).json()["usage"]["total_tokens"] == CONTEXT


def test_max_tokens_beyond_the_context_end_there(daemon: FakeDaemon) -> None:
    body = post(daemon, TEXT, {"prompt": "a", "max_tokens": 2**31 - 1}).json()
    assert body["usage"]["total_tokens"] == CONTEXT
    assert body["choices"][0]["finish_reason"] == "length"


def test_max_completion_tokens_is_the_newer_word_and_counts(daemon: FakeDaemon) -> None:
    for path, prompt in ((TEXT, {"prompt": "a"}), (CHAT, {"messages": USER})):
        body = post(daemon, path, {**prompt, "max_completion_tokens": 3, "max_tokens": 9}).json()
        assert body["usage"]["completion_tokens"] == 3


def test_sampling_fields_reach_the_sampler(daemon: FakeDaemon) -> None:
    """The model's own choice has a logit of 50, all others 0."""
    [chosen] = daemon.tokenizer.encode("x", bos=False)
    first = next_token(70, 1)
    usual = expected_text(daemon, [70], 1)
    for path, prompt in ((TEXT, {"prompt": [70]}), (CHAT, {"messages": USER})):
        body = {**prompt, "max_tokens": 3, "temperature": 0, "logit_bias": {str(chosen): 100}}
        choice = post(daemon, path, body).json()["choices"][0]
        assert (choice["text"] if path == TEXT else choice["message"]["content"]) == "xxx"
    for more in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 100}):
        # 51 beats 50 until a penalty has been taken from it.
        body = {"prompt": [70], "max_tokens": 2, "temperature": 0, "logit_bias": {str(chosen): 51}, **more}
        assert post(daemon, TEXT, body).json()["choices"][0]["text"] == "x" + expected_text(daemon, [70, chosen], 1)
    # 20 at temperature 2 is 84 % of the probability.
    body = {"prompt": [70], "max_tokens": 1, "logit_bias": {str(first): -30}, "temperature": 2}
    for narrow, free in (({}, True), ({"top_k": 1}, False), ({"top_p": 0.5}, False), ({"min_p": 0.1}, False)):
        texts = {post(daemon, TEXT, {**body, "seed": seed, **narrow}).json()["choices"][0]["text"] for seed in range(9)}
        assert (texts != {usual}) is free, narrow


def test_a_bias_outside_the_vocabulary_is_refused(daemon: FakeDaemon) -> None:
    answer = post(daemon, TEXT, {"prompt": "a", "logit_bias": {"4096": 1}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logit_bias")
    assert "vocabulary of 4096" in answer.json()["error"]["message"]


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 1, 3000])
def test_too_long_a_prompt_is_context_length_exceeded(daemon: FakeDaemon, length: int) -> None:
    answer = post(daemon, TEXT, {"prompt": [70] * length})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert str(length) in error["message"]
    for words in (f"This model's maximum context length is {CONTEXT} tokens", "prompt is too long"):
        assert words in error["message"], "clients tell this error from others by it"


def test_longest_prompt_leaves_one_token(daemon: FakeDaemon) -> None:
    assert post(daemon, TEXT, {"prompt": [70] * (CONTEXT - 1)}).json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("prompt", ["Hello", ["Hello"]])
def test_prompt_may_be_a_string_or_a_list_with_one(daemon: FakeDaemon, prompt: object) -> None:
    tokens = daemon.tokenizer.encode("Hello", bos=True)
    body = post(daemon, TEXT, {"prompt": prompt, "max_tokens": 4}).json()
    assert body["choices"][0]["text"] == expected_text(daemon, tokens, 4)


@pytest.mark.parametrize("prompt", [[70, 71, 72], [[70, 71, 72]]])
def test_prompt_may_be_token_ids_which_are_taken_as_they_are(daemon: FakeDaemon, prompt: object) -> None:
    body = post(daemon, TEXT, {"prompt": prompt, "max_tokens": 4}).json()
    assert body["usage"]["prompt_tokens"] == 3
    assert body["choices"][0]["text"] == expected_text(daemon, [70, 71, 72], 4)


@pytest.mark.parametrize("prompt", [[[1], []], [["a"]], [], [[]], [4096], [-1], [True], [1, "a"], {"a": 1}, 5, None])
def test_other_prompts_are_refused(daemon: FakeDaemon, prompt: object) -> None:
    answer = post(daemon, TEXT, {"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


def test_model_names(daemon: FakeDaemon) -> None:
    for name in ("docs-llama", "demo", None):
        assert post(daemon, TEXT, {"model": name, "prompt": "a", "max_tokens": 1}).status_code == 200
    answer = post(daemon, TEXT, {"model": "gpt-4o", "prompt": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_move_during_an_answer_is_told_in_the_usage(daemon: FakeDaemon) -> None:
    async def run() -> tuple[httpx.Response, int]:
        daemon.model.gate.clear()
        asking = asyncio.create_task(_post(daemon, TEXT, {"prompt": "a", "max_tokens": 30}))
        await asyncio.to_thread(daemon.model.at_gate.wait, 30)
        daemon.model.move_to(2)
        daemon.model.gate.set()
        answer = await asking
        return answer, daemon.model.position

    answer, position = asyncio.run(run())
    daemon.model.move_to(0).result(30)
    assert position == 2
    assert answer.headers["x-flexquant-position"] == "0"
    assert answer.json()["usage"]["flexquant"] == {"position_start": 0, "position_end": 2, "position_worst": 2}


def test_model_without_chat_template_says_so() -> None:
    with fake_daemon(chat_template=False) as daemon:
        answer = post(daemon, CHAT, {"messages": USER})
        assert answer.status_code == 400
        assert "/v1/completions" in answer.json()["error"]["message"]


def test_choices_and_prompts_are_numbered_prompt_by_prompt(daemon: FakeDaemon) -> None:
    body = {"prompt": [[70, 71, 72], [90]], "n": 2, "max_tokens": 4, "temperature": 0}
    answer = post(daemon, TEXT, body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in answer["choices"]]
    first, second = expected_text(daemon, [70, 71, 72], 4), expected_text(daemon, [90], 4)
    assert texts == [first, first, second, second]
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 16, 20)


def test_streamed_choices_each_have_their_beginning_text_and_end(daemon: FakeDaemon) -> None:
    body = {"messages": USER, "n": 3, "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
    lines = post(daemon, CHAT, body).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and not line.endswith("[DONE]")]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 15
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in chunks[:-1] if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert mine[-1]["finish_reason"] == "length"
        assert all(choice["finish_reason"] is None for choice in mine[:-1])
        assert "".join(choice["delta"].get("content", "") for choice in mine)


@pytest.mark.parametrize(("more", "param"), [({"n": 37}, "n"), ({"prompt": ["a"] * 37}, "prompt")])
def test_more_sequences_than_could_ever_be_taken_are_a_400(
    daemon: FakeDaemon, more: dict[str, object], param: str
) -> None:
    answer = post(daemon, TEXT, {"prompt": "a", **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert "can have 36 (--parallel and --max-queue)" in answer.json()["error"]["message"]


def test_full_queue_is_a_503_with_retry_after() -> None:
    async def run(daemon: FakeDaemon) -> list[httpx.Response]:
        daemon.model.gate.clear()
        async with daemon.client() as client:
            body = {"prompt": "a", "max_tokens": 2}
            first = asyncio.create_task(client.post(TEXT, json=body))
            await asyncio.to_thread(daemon.model.at_gate.wait, 30)
            others = [asyncio.create_task(client.post(TEXT, json=body | {"stream": True})) for _ in range(4)]
            finished = asyncio.as_completed(others)
            refused = [await next(finished), await next(finished)]
            daemon.model.gate.set()
            return [*refused, await first, *[await other for other in finished]]

    with fake_daemon("--max-queue", "2", "--parallel", "1") as daemon:
        answers = asyncio.run(run(daemon))
    assert [answer.status_code for answer in answers] == [503, 503, 200, 200, 200]
    refused = answers[0]
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    assert "2 of at most 2 sequences" in refused.json()["error"]["message"]


def test_no_free_kv_pages_is_a_503(daemon: FakeDaemon) -> None:
    daemon.model.free_pages, kept = 0, daemon.model.free_pages
    try:
        answer = post(daemon, TEXT, {"prompt": "a", "stream": True})
    finally:
        daemon.model.free_pages = kept
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "kv_cache_exhausted"


def test_error_within_a_stream_is_an_event_in_the_envelope(daemon: FakeDaemon) -> None:
    daemon.model.fail = OSError("the secret inner reason")
    answer = post(daemon, TEXT, {"prompt": "a", "stream": True})
    assert answer.status_code == 200
    (line,) = [line for line in answer.text.split("\n\n") if line]
    error = json.loads(line.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]


def test_usage_comes_before_an_error_where_it_was_asked_for(daemon: FakeDaemon) -> None:
    body = {"prompt": [[70] * 3], "n": 2, "max_tokens": 9, "ignore_eos": True, "stream": True}
    for asked in (True, False):
        daemon.model.fail, daemon.model.fail_at = OSError("a reason"), daemon.model.passes + 5
        told = post(daemon, TEXT, body | {"stream_options": {"include_usage": asked}}).text.split("\n\n")
        *chunks, last = [json.loads(line.removeprefix("data: ")) for line in told if line]
        assert last["error"]["type"] == "server_error"
        usage = chunks[-1].get("usage")
        assert (usage is not None) is asked
        if usage is not None:
            assert chunks[-1]["choices"] == []
            assert usage["prompt_tokens"] == 3
            assert 0 < usage["completion_tokens"] < 18


def test_error_before_a_whole_answer_is_a_500_in_the_envelope(daemon: FakeDaemon) -> None:
    daemon.model.fail = OSError("the secret inner reason")
    answer = post(daemon, TEXT, {"prompt": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert post(daemon, TEXT, {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_everything_is_given_back_in_the_end(daemon: FakeDaemon) -> None:
    assert daemon.model.free_pages == 64
    assert daemon.engine.waiting == 0
