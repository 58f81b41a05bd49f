"""Tools over HTTP, with a model that says what the test wants: whole answers, streams, choices, and what is refused."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_daemon import FakeDaemon, fake_daemon
from support.fake_model import DOCS_LLAMA

Json = dict[str, Any]
CHAT: Final = "/v1/chat/completions"
USER: Final = [{"role": "user", "content": "How warm is it in Bonn?"}]
TEMPLATE: Final = """
{{- bos_token }}{% if tools %}<|system|>{{ tools | tojson }} Answer in <tool_call>.{{ eos_token }}{% endif %}
{%- if calm %}<|system|>Be calm.{{ eos_token }}{% endif %}
{%- for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content }}{% if m.tool_calls %}
{{- m.tool_calls | tojson }}{% endif %}{{ eos_token }}{% endfor %}<|assistant|>"""
WEATHER: Final[Json] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TIME: Final[Json] = {"type": "function", "function": {"name": "get_time"}}
TOOLS: Final = [WEATHER, TIME]
BONN, TOKYO, NOW = '{"city": "Bonn"}', '{"city": "東京"}', "{}"


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TWO_CALLS: Final = "I look.\n" + call("get_weather", BONN) + "\n" + call("get_time", NOW)


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon(chat_template=TEMPLATE) as running:
        yield running


def post(daemon: FakeDaemon, path: str, body: Json) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            return await client.post(path, json=body)

    return asyncio.run(run())


def ask(daemon: FakeDaemon, says: str, special: bool = False, **fields: Any) -> httpx.Response:
    daemon.model.script = daemon.tokenizer.encode(says, special=special, bos=False)
    answer = post(daemon, CHAT, {"messages": USER, "tools": TOOLS, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return answer


def choice(daemon: FakeDaemon, says: str, **fields: Any) -> Json:
    return dict(ask(daemon, says, **fields).json()["choices"][0])


def chunks(daemon: FakeDaemon, says: str, **fields: Any) -> list[Json]:
    """The choices of all chunks of a stream."""
    *lines, done = ask(daemon, says, stream=True, **fields).text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]


def put_together(streamed: list[Json]) -> Json:
    """The choice that a client makes of the chunks of one."""
    content, calls = "", list[Json]()
    for part in streamed:
        delta = part["delta"]
        content += delta.get("content") or ""
        for piece in delta.get("tool_calls", ()):
            if piece["index"] == len(calls):
                assert set(piece) == {"index", "id", "type", "function"}
                calls.append({"id": piece["id"], "type": piece["type"], "function": {**piece["function"]}})
            else:
                assert (piece["index"], set(piece)) == (len(calls) - 1, {"index", "function"})
                calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    message: Json = {"role": streamed[0]["delta"]["role"], "content": content, "refusal": None}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    scores = [score for part in streamed if part["logprobs"] for score in part["logprobs"]["content"]]
    return {
        "index": streamed[0]["index"],
        "message": message,
        "logprobs": {"content": scores, "refusal": None} if scores else None,
        "finish_reason": streamed[-1]["finish_reason"],
    }


def without_ids(found: Json) -> Json:
    return dict(json.loads(re.sub(r'"id": "call_\w{24}"', '"id": ""', json.dumps(found))))


def function(name: str, arguments: str) -> Json:
    return {"id": "", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_call_is_told_in_openais_shape(daemon: FakeDaemon) -> None:
    found = choice(daemon, call("get_weather", TOKYO))
    [made] = found["message"]["tool_calls"]
    assert re.fullmatch(r"call_\w{24}", made["id"])
    assert without_ids(found) == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [function("get_weather", TOKYO)],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


def test_text_and_several_calls(daemon: FakeDaemon) -> None:
    found = choice(daemon, TWO_CALLS)["message"]
    assert found["content"] == "I look."
    assert without_ids(found)["tool_calls"] == [function("get_weather", BONN), function("get_time", NOW)]
    assert len({made["id"] for made in found["tool_calls"]}) == 2


def test_a_streamed_call_begins_with_its_name_and_goes_on_with_its_arguments(daemon: FakeDaemon) -> None:
    opening, *parts, end = chunks(daemon, TWO_CALLS)
    assert opening["delta"] == {"role": "assistant", "content": ""}
    assert "".join(part["delta"].get("content", "") for part in parts) == "I look."
    pieces = [part["delta"]["tool_calls"][0] for part in parts if "tool_calls" in part["delta"]]
    first = pieces[0]
    assert (first["index"], first["type"]) == (0, "function")
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    assert len([piece for piece in pieces if piece["index"] == 0]) > 3, "arguments come in pieces"
    assert (end["delta"], end["finish_reason"]) == ({}, "tool_calls")


@given(
    says=st.lists(
        st.sampled_from([call("get_weather", TOKYO), call("get_time", NOW), call("get_time", '{"a": '), call("f", NOW)])
        | st.sampled_from(["<tool_call>", "\n", " ", '{"name"', "<", "é東", "text"])
        | st.text(max_size=4),
        max_size=5,
    ).map("".join),
    count=st.integers(1, 150),
)
@settings(deadline=None, max_examples=60)
def test_a_stream_tells_what_the_whole_answer_tells(daemon: FakeDaemon, says: str, count: int) -> None:
    fields: Json = {"max_tokens": count, "logprobs": True}
    whole, streamed = choice(daemon, says, **fields), chunks(daemon, says, **fields)
    if not whole["logprobs"]["content"]:
        whole["logprobs"] = None
    assert without_ids(put_together(streamed)) == without_ids(whole)
    assert all(part["finish_reason"] is None for part in streamed[:-1])


@pytest.mark.parametrize("says", ["It is warm.", "a <tool_call> b", call("unknown", NOW), call("get_time", '"now"')])
def test_what_is_no_call_stays_text(daemon: FakeDaemon, says: str) -> None:
    found = choice(daemon, says)
    assert found["message"] == {"role": "assistant", "content": says, "refusal": None}
    assert found["finish_reason"] == "stop"
    assert put_together(chunks(daemon, says)) == found


def test_a_call_that_is_cut_short_says_so(daemon: FakeDaemon) -> None:
    enough = len(daemon.tokenizer.encode(call("get_weather", '{"city"').split("}")[0], bos=False))
    found = choice(daemon, call("get_weather", BONN), max_tokens=enough)
    assert found["finish_reason"] == "length"
    [made] = found["message"]["tool_calls"]
    assert made["function"]["arguments"].startswith('{"city"')
    assert put_together(chunks(daemon, call("get_weather", BONN), max_tokens=enough))["finish_reason"] == "length"


def test_no_parallel_calls_means_one(daemon: FakeDaemon) -> None:
    for found in (
        choice(daemon, TWO_CALLS, parallel_tool_calls=False),
        put_together(chunks(daemon, TWO_CALLS, parallel_tool_calls=False)),
    ):
        assert without_ids(found["message"])["tool_calls"] == [function("get_weather", BONN)]
        assert found["finish_reason"] == "tool_calls"


def test_every_choice_has_its_calls(daemon: FakeDaemon) -> None:
    found = ask(daemon, call("get_time", NOW), n=3).json()["choices"]
    assert [without_ids(each["message"])["tool_calls"] for each in found] == [[function("get_time", NOW)]] * 3
    streamed = chunks(daemon, call("get_time", NOW), n=3)
    for index in range(3):
        mine = put_together([part for part in streamed if part["index"] == index])
        assert without_ids(mine["message"])["tool_calls"] == [function("get_time", NOW)]


def test_with_the_choice_none_the_model_does_not_learn_of_tools(daemon: FakeDaemon) -> None:
    says = call("get_time", NOW)
    plain, none = ask(daemon, says, tools=None).json(), ask(daemon, says, tool_choice="none").json()
    assert none["choices"] == plain["choices"]
    assert none["choices"][0]["message"]["content"] == says
    assert none["usage"] == plain["usage"]
    assert ask(daemon, says, tool_choice="auto").json()["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice.function.name",
            "there are get_weather, get_time",
        ),
        ({"tool_choice": "required", "tools": None}, "tool_choice", "no tools to call"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.function.name", "another tool is called get_weather"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages cannot be replaced"),
        ({"chat_template_kwargs": {"range": 1}}, "chat_template_kwargs", "range cannot be replaced"),
        ({"messages": [{"role": "tool", "content": "12"}]}, "messages.0", "tool_call_id"),
    ],
)
def test_what_cannot_be_done_is_a_400(daemon: FakeDaemon, fields: Json, param: str, said: str) -> None:
    answer = post(daemon, CHAT, {"messages": USER, "tools": TOOLS, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert said in error["message"]


@pytest.mark.parametrize("levels", [100, 500, 900, 990, 5000])
def test_tools_that_are_nested_deeply_never_break_the_daemon(daemon: FakeDaemon, levels: int) -> None:
    schema = '{"a":' * levels + "{}" + "}" * levels
    tool = '{"type": "function", "function": {"name": "f", "parameters": ' + schema + "}}"
    body = f'{{"messages": [{{"role": "user", "content": "a"}}], "tools": [{tool}], "max_tokens": 1}}'

    async def run() -> httpx.Response:
        async with daemon.client() as client:
            return await client.post(CHAT, content=body, headers={"content-type": "application/json"})

    answer = asyncio.run(run())
    assert answer.status_code == (200 if levels == 100 else 400)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content }}", "does not take tools"),
        ("{% set tools = [] %}{{ tools }}{{ messages[0].content }}", "does not take tools"),
        ("{{ tools }}{{ messages[0].content }}", "a form that this version does not read"),
        ("{{ tools }}{{ messages[0].content }}<tool_call><function=", "a form that this version does not read"),
    ],
)
def test_a_model_that_cannot_be_given_tools_says_so(template: str, said: str) -> None:
    with fake_daemon(chat_template=template) as daemon:
        error = post(daemon, CHAT, {"messages": USER, "tools": TOOLS}).json()["error"]
        assert (error["param"], error["code"]) == ("tools", "unsupported")
        assert said in error["message"]
        assert 'tool_choice: "none"' in error["message"]
        ask(daemon, "fine", tool_choice="none")
        ask(daemon, "fine", tools=[])


def test_a_conversation_goes_on_with_the_results(daemon: FakeDaemon) -> None:
    [made] = choice(daemon, call("get_weather", BONN))["message"]["tool_calls"]
    messages: list[Json] = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": [{"type": "text", "text": "12 °C"}]},
    ]
    tokens = post(daemon, "/tokenize", {"messages": messages, "tools": TOOLS}).json()["tokens"]
    assert ask(daemon, "12", messages=messages).json()["usage"]["prompt_tokens"] == len(tokens)
    prompt = daemon.tokenizer.decode(tokens)
    assert '"arguments": {"city": "Bonn"}' in prompt
    assert prompt.endswith("12 °C")


def test_variables_of_the_template(daemon: FakeDaemon) -> None:
    body: Json = {"messages": USER, "chat_template_kwargs": {"calm": True, "unused": [1]}}
    tokens = post(daemon, "/tokenize", body).json()["tokens"]
    assert "Be calm." in daemon.tokenizer.decode(tokens)
    usage = ask(daemon, "yes", tools=None, chat_template_kwargs={"calm": True}).json()["usage"]
    assert usage["prompt_tokens"] == len(tokens)


def test_marks_that_are_special_tokens_are_read(tmp_path: Path) -> None:
    """They are no text elsewhere. The id is one that Mistral's templates take back."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (DOCS_LLAMA / file).read_text().replace("<|system|>", "[TOOL_CALLS]")
        (tmp_path / file).write_text(text)
    template = "{{ tools }}{{ messages[0].content }}[TOOL_CALLS]"
    says = '[TOOL_CALLS][{"name": "get_time", "arguments": {}}]'
    with fake_daemon(chat_template=template, tokenizer_folder=tmp_path) as daemon:
        [made] = choice(daemon, says, special=True)["message"]["tool_calls"]
        assert daemon.model.script is not None
        assert daemon.model.script[0] == 2
        assert re.fullmatch("[a-zA-Z0-9]{9}", made["id"])
        assert made["function"] == {"name": "get_time", "arguments": "{}"}
        plain = choice(daemon, says, special=True, tools=None)
        assert plain["message"]["content"] == says.removeprefix("[TOOL_CALLS]")


def test_openais_client_reads_the_calls(daemon: FakeDaemon) -> None:
    async def run() -> tuple[Any, Any]:
        daemon.model.script = daemon.tokenizer.encode(TWO_CALLS, bos=False)
        http: Any = daemon.client()  # the client has its own name for the type
        async with openai.AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", http_client=http) as client:
            asked: Json = {"model": "demo", "messages": USER, "tools": TOOLS}
            whole = await client.chat.completions.create(**asked)
            async with client.chat.completions.stream(**asked) as stream:
                return whole, await stream.get_final_completion()

    for completion in asyncio.run(run()):
        [found] = completion.choices
        assert found.finish_reason == "tool_calls"
        assert found.message.content == "I look."
        names = [(made.function.name, made.function.arguments) for made in found.message.tool_calls]
        assert names == [("get_weather", BONN), ("get_time", NOW)]


@pytest.mark.parametrize(
    ("tool_choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
def test_a_forced_call_is_made_whatever_the_model_would_say(
    daemon: FakeDaemon, tool_choice: object, names: set[str]
) -> None:
    for seed in range(5):
        fields: Json = {"tool_choice": tool_choice, "temperature": 2, "seed": seed, "max_tokens": 400}
        found = choice(daemon, "I would rather talk.", **fields)
        streamed = put_together(chunks(daemon, "I would rather talk.", **fields))
        assert without_ids(streamed) == without_ids(found)
        [made] = found["message"]["tool_calls"]
        assert made["function"]["name"] in names
        assert found["message"]["content"] is None
        if found["finish_reason"] == "tool_calls":
            json.loads(made["function"]["arguments"])
