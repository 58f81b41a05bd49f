"""`response_format`, `structured_outputs` and calls of tools over the fake model: what they do beside other fields."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import httpx
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.grammar import Grammar, Grammars
from flexquant.engine.grammar_constraint import CompiledGrammar
from flexquant.engine.sampling import Sampler, SamplingParams
from flexquant.engine.tokenizer import DetokenizerStream, Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.structured_output import tool_constraint
from support.daemon import clean_environment
from support.fake_daemon import FakeDaemon, fake_daemon

Json = dict[str, Any]
PROMPTS: Final[dict[str, Json]] = {
    "/v1/completions": {"prompt": "Hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
}
TEXT, CHAT = PROMPTS
SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
DATE: Final = "20[0-9]{2}-[01][0-9]"
DEAD_END: Final[Json] = {"structured_outputs": {"grammar": 'start: "a" <[3]>'}}
"""Token 3 is a special one, which no text has."""


def by_schema(schema: Json) -> Json:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


ASKED: Final[dict[str, Json]] = {
    "object": {"response_format": {"type": "json_object"}},
    "schema": by_schema(SCHEMA),
    "regex": {"structured_outputs": {"regex": DATE}},
    "choice": {"structured_outputs": {"choice": ["yes", "no", "maybe"]}},
    "grammar": {"structured_outputs": {"grammar": 'start: word (" " word){2}\nword: "one" | "two"'}},
}


def check(asked: str, text: str) -> None:
    """`text` is what was asked for."""
    match asked:
        case "object":
            assert isinstance(json.loads(text), dict)
        case "schema":
            jsonschema.validate(json.loads(text), SCHEMA)
        case "regex":
            assert re.fullmatch(DATE, text)
        case "choice":
            assert text in ("yes", "no", "maybe")
        case _:
            assert re.fullmatch("(one|two)( (one|two)){2}", text)


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


def post(daemon: FakeDaemon, path: str, body: Json) -> httpx.Response:
    async def run() -> httpx.Response:
        async with daemon.client() as client:
            content = json.dumps({"max_tokens": 200, "seed": 1, **PROMPTS[path], **body})
            return await client.post(path, content=content, headers={"content-type": "application/json"})

    return asyncio.run(run())


def texts(answer: httpx.Response) -> list[tuple[str, str]]:
    """Text and finish reason of each choice."""
    assert answer.status_code == 200, answer.text
    return [
        (choice["text"] if "text" in choice else choice["message"]["content"], choice["finish_reason"])
        for choice in answer.json()["choices"]
    ]


def streamed(answer: httpx.Response, choices: int) -> list[tuple[str, str]]:
    """The same of a stream."""
    found, reasons = [""] * choices, [""] * choices
    for line in answer.text.split("\n\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                found[choice["index"]] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
                reasons[choice["index"]] = choice["finish_reason"] or ""
    return list(zip(found, reasons, strict=True))


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("more", [{"temperature": 0}, {"top_k": 3, "temperature": 2}, {"ignore_eos": True}])
def test_each_choice_is_what_was_asked_for_and_streamed_as_it_is_whole(
    daemon: FakeDaemon, path: str, asked: str, more: Json
) -> None:
    body = {"n": 3, **ASKED[asked], **more}
    whole = texts(post(daemon, path, body))
    stopped = [text for text, reason in whole if reason == "stop"]
    for text in stopped:
        check(asked, text)
    assert asked == "object" or len(stopped) == 3, "all others are bounded"
    assert streamed(post(daemon, path, body | {"stream": True}), 3) == whole


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), most=st.integers(1, 12), stop=st.sampled_from(["x", "ab", "\n", "zz"]))
def test_max_tokens_and_stop_strings_cut_what_would_have_been(
    daemon: FakeDaemon, seed: int, most: int, stop: str
) -> None:
    body = {"structured_outputs": {"regex": "[a-z\n]{30,40}"}, "seed": seed, "temperature": 2}
    ((full, reason),) = texts(post(daemon, TEXT, body))
    assert reason == "stop"
    ((begun, reason),) = texts(post(daemon, TEXT, body | {"max_tokens": most}))
    assert full.startswith(begun)
    assert (reason == "stop") == (begun == full)
    ((cut, _),) = texts(post(daemon, TEXT, body | {"stop": stop}))
    assert cut == full.partition(stop)[0]


def test_an_answer_without_max_tokens_ends_where_nothing_can_follow(daemon: FakeDaemon) -> None:
    body = {"max_tokens": None, "ignore_eos": True, **ASKED["choice"]}
    answer = post(daemon, CHAT, body)
    ((text, reason),) = texts(answer)
    assert reason == "stop"
    assert answer.json()["usage"]["completion_tokens"] <= len(text)


def test_log_probabilities_are_the_models_own(daemon: FakeDaemon) -> None:
    """The fake model gives one token 50 and all others 0: what it had not chosen is as unlikely as ever."""
    body = {"structured_outputs": {"regex": "[0-9]{5}"}, "temperature": 0, "logprobs": 1}
    found = post(daemon, TEXT, body).json()["choices"][0]["logprobs"]
    assert "".join(found["tokens"]).isdigit()
    assert found["token_logprobs"] == [pytest.approx(-50, abs=0.1)] * len(found["tokens"])
    for token, top in zip(found["tokens"], found["top_logprobs"], strict=True):
        assert max(top.values()) == pytest.approx(0, abs=0.1)
        assert token in top


def test_an_echoed_prompt_is_no_part_of_what_is_constrained(daemon: FakeDaemon) -> None:
    ((text, reason),) = texts(post(daemon, TEXT, {"echo": True, "logprobs": 0, **ASKED["regex"]}))
    assert reason == "stop"
    check("regex", text.removeprefix("Hello"))


@pytest.mark.parametrize("echo", [False, True])
def test_a_constrained_text_is_told_as_it_is(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, echo: bool) -> None:
    """With the space that some tokenizers put before a text, unless the prompt comes before it."""
    seen: list[bool] = []
    stream = Tokenizer.stream

    def watched(self: Tokenizer, *, spelled: Collection[int] = (), verbatim: bool = False) -> DetokenizerStream:
        seen.append(verbatim)
        return stream(self, spelled=spelled, verbatim=verbatim)

    monkeypatch.setattr(Tokenizer, "stream", watched)
    post(daemon, TEXT, {"echo": echo, **ASKED["regex"]})
    post(daemon, CHAT, ASKED["regex"])
    post(daemon, CHAT, {"max_tokens": 1})
    assert seen == [not echo, True, False]


@pytest.mark.parametrize("path", PROMPTS)
def test_a_text_that_cannot_go_on_ends_in_an_error(daemon: FakeDaemon, path: str) -> None:
    whole = post(daemon, path, DEAD_END)
    assert whole.status_code == 500
    assert "special tokens" in whole.json()["error"]["message"]
    *_, last = [line for line in post(daemon, path, DEAD_END | {"stream": True}).text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"] == whole.json()["error"]
    assert texts(post(daemon, path, ASKED["choice"])), "others are answered as before"


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (by_schema({"properties": {"a": {"not": {}}}}), "response_format", '"not"'),
        (by_schema({"type": "array", "uniqueItems": True}), "response_format", '"uniqueItems"'),
        (by_schema({"x-guidance": {"lenient": True}}), "response_format", "x-guidance"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format", "belongs into"),
        (
            by_schema(SCHEMA) | {"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}},
            "response_format",
            "has no json_schema",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        ({"response_format": "json"}, "response_format", "valid dictionary"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "match pattern",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "required",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a("}}, "structured_outputs", "unclosed group"),
        ({"structured_outputs": {"regex": "\ud800"}}, "structured_outputs", "surrogate"),
        ({"structured_outputs": {"grammar": "start: gone"}}, "structured_outputs", 'unknown name: "gone"'),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"json": {"type": "object"}}}, "structured_outputs", "use response_format"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not permitted"),
        (ASKED["object"] | ASKED["regex"], "structured_outputs", "not both"),
    ],
)
def test_mistakes_are_named(daemon: FakeDaemon, path: str, stream: bool, body: Json, param: str, said: str) -> None:
    answer = post(daemon, path, body | {"stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
    assert said in error["message"]


def test_fields_of_vllm_that_are_null_are_not_there(daemon: FakeDaemon) -> None:
    given = {"regex": DATE, "json": None, "choice": None, "structural_tag": None}
    ((text, _),) = texts(post(daemon, TEXT, {"structured_outputs": given, "response_format": {"type": "text"}}))
    check("regex", text)


def test_grammars_are_compiled_off_the_event_loop_and_off_the_engine_thread(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    compile_ = Grammars.compile

    def watched(self: Grammars, grammar: Grammar) -> CompiledGrammar:
        threads.append(threading.current_thread())
        return compile_(self, grammar)

    monkeypatch.setattr(Grammars, "compile", watched)
    post(daemon, CHAT, ASKED["object"])
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert thread.name != "engine"


def test_a_daemon_that_is_asked_for_no_grammar_does_not_load_the_library() -> None:
    code = (
        "import asyncio, sys\n"
        "from support.fake_daemon import fake_daemon\n"
        "async def ask(daemon, **body):\n"
        "    async with daemon.client() as client:\n"
        "        answer = await client.post('/v1/completions', json={'prompt': 'a', 'max_tokens': 2, **body})\n"
        "        assert answer.status_code == 200, answer.text\n"
        "with fake_daemon() as daemon:\n"
        "    asyncio.run(ask(daemon))\n"
        "    assert 'llguidance' not in sys.modules\n"
        "    asyncio.run(ask(daemon, response_format={'type': 'json_object'}))\n"
        "    assert 'llguidance' in sys.modules\n"
    )
    environment = clean_environment()
    environment["PYTHONPATH"] = ":".join(filter(None, ["tests", environment.get("PYTHONPATH")]))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert ended.returncode == 0, ended.stderr


def function(name: str, parameters: Json | None = None) -> Json:
    described = {"name": name, "description": "Does something."}
    return {"type": "function", "function": described | ({} if parameters is None else {"parameters": parameters})}


def referring(values: Sequence[object]) -> Json:
    """Parameters with a definition of their own, of the same name in all of them."""
    return {
        "type": "object",
        "properties": {"value": {"$ref": "#/$defs/Value"}},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {"Value": {"enum": list(values)}},
    }


TOOLS: Final = [function("first", referring([1, 2])), function("second", referring(["x"])), function("third")]


def calls(daemon: FakeDaemon, name: str | None, count: int) -> list[Json]:
    """So many random calls under the constraint that come to their end."""
    compiled = Grammars(daemon.tokenizer, 4096, (1,)).compile(tool_constraint(TOOLS, name))
    found: list[Json] = []
    for seed in range(count):
        constraint, tokens = compiled.start(ignore_eos=True), list[int]()
        sampler = Sampler(SamplingParams(seed=seed), constraint=constraint)
        noise = np.random.default_rng(seed)
        while not constraint.finished and len(tokens) < 150:
            tokens.append(sampler.sample(noise.normal(size=4096).astype(np.float32)))
        if constraint.finished:
            found.append(json.loads(daemon.tokenizer.decode(tokens)))
    return found


def test_a_call_of_a_named_tool_has_its_arguments(daemon: FakeDaemon) -> None:
    for name, values in (("first", {1, 2}), ("second", {"x"})):
        found = calls(daemon, name, 12)
        assert len(found) == 12
        assert all(list(call) == ["name", "arguments"] and call["name"] == name for call in found)
        assert {call["arguments"]["value"] for call in found} == values


def test_a_call_of_any_tool_has_the_arguments_of_that_one(daemon: FakeDaemon) -> None:
    found = calls(daemon, None, 40)
    names = ("first", "second", "third")
    by_name = {name: [call["arguments"] for call in found if call["name"] == name] for name in names}
    assert all(arguments["value"] in (1, 2) for arguments in by_name["first"])
    assert all(arguments == {"value": "x"} for arguments in by_name["second"])
    assert all(arguments == {} for arguments in by_name["third"]), "it has no parameters"
    assert len(found) == 40
    assert all(by_name.values())


def test_parameters_may_refer_to_themselves(daemon: FakeDaemon) -> None:
    parameters = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    source = tool_constraint([function("first", parameters), function("second", parameters)])
    constraint = Grammars(daemon.tokenizer, 4096, (1,)).compile(source).start(ignore_eos=True)
    for token in daemon.tokenizer.encode('{"name": "second", "arguments": {"next": {"next": {}}}}', bos=False):
        constraint.accept(token)
    assert constraint.finished


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(ApiError, match="'fourth' is not in tools") as refused:
        tool_constraint(TOOLS, "fourth")
    assert (refused.value.status, refused.value.param) == (400, "tool_choice")
    with pytest.raises(ApiError, match="it needs tools"):
        tool_constraint([])
