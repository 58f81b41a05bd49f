"""The three lists of request fields: honoured, accepted without effect, refused. One row for each."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from flexquant.server.api_error import ApiError
from flexquant.server.api_types import (
    ACCEPTED,
    ACCEPTED_BY_COMPLETIONS,
    REFUSED_BY_CHAT,
    REFUSED_BY_COMPLETIONS,
    ChatRequest,
    CompletionRequest,
    TargetRequest,
)

USER = [{"role": "user", "content": "x"}]
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "x", **fields})


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": USER, **fields})


HONOURED: dict[str, tuple[Any, Any]] = {
    "model": ("demo", 5),
    "temperature": (0, 2.1),
    "top_p": (0.5, 1.1),
    "top_k": (40, -1),
    "min_p": (0.1, 1.1),
    "presence_penalty": (-2, 2.1),
    "frequency_penalty": (0.5, -2.1),
    "repetition_penalty": (1.1, 0),
    "logit_bias": ({"50": -100, "7": 0.5}, {"50": -101}),
    "seed": (-(2**63), 2**63),
    "stop": (["a", "b"], [1]),
    "stream": (True, "yes"),
    "stream_options": ({"include_usage": True}, [1]),
    "n": (1, 0),
    "max_tokens": (1, -1),
    "max_completion_tokens": (1, 0),
    "ignore_eos": (True, 1),
}


@pytest.mark.parametrize("field", HONOURED)
def test_honoured_field_is_read_and_checked(field: str) -> None:
    good, bad = HONOURED[field]
    for make in (completion, chat):
        assert getattr(make(**{field: None}), field) is None
        found = getattr(make(**{field: good}), field)
        if field == "logit_bias":
            found = {str(token): bias for token, bias in found.items()}
        assert (found.model_dump() if field == "stream_options" else found) == good
        with pytest.raises(ValidationError, match=field):
            make(**{field: bad})


@pytest.mark.parametrize("field", ACCEPTED_BY_COMPLETIONS)
def test_accepted_field_changes_nothing(field: str) -> None:
    assert completion(**{field: "anything"}) == completion()
    assert field not in ACCEPTED or chat(**{field: {"any": "thing"}}) == chat()


@pytest.mark.parametrize(
    ("make", "refused", "field"),
    [
        *((completion, REFUSED_BY_COMPLETIONS, field) for field in REFUSED_BY_COMPLETIONS),
        *((chat, REFUSED_BY_CHAT, field) for field in REFUSED_BY_CHAT),
    ],
)
def test_refused_field_is_named_unless_it_is_off(
    make: Callable[..., object], refused: Mapping[str, tuple[object, ...]], field: str
) -> None:
    for off in (None, *refused[field]):
        assert make(**{field: off}) == make()
    with pytest.raises(ApiError, match=f"^{field}: ") as error:
        make(**{field: "surely on"})
    assert (error.value.status, error.value.param) == (400, field)


@pytest.mark.parametrize(
    ("field", "off", "on"),
    [
        ("repeat_penalty", 1.0, 1.1),
        ("repeat_penalty", 1, True),
        ("best_of", 1, 2),
        ("json_schema", {}, {"type": "object"}),
        ("tools", [], [{"type": "function"}]),
        ("tool_choice", "auto", "required"),
        ("store", False, True),
    ],
)
def test_off_and_on(field: str, off: object, on: object) -> None:
    assert completion(**{field: off}) == completion()
    with pytest.raises(ApiError, match=field):
        completion(**{field: on})


def test_a_refused_field_names_the_one_to_use_instead() -> None:
    with pytest.raises(ApiError, match="use repetition_penalty"):
        completion(repeat_penalty=1.1)
    with pytest.raises(ApiError, match=r"use structured_outputs\.regex"):
        completion(guided_regex="[0-9]")


@pytest.mark.parametrize(
    "bias", [{"a": 1}, {"-1": 1}, {"1.0": 1}, {"": 1}, {"1" * 10: 1}, {"1": "1"}, {"1": None}, [1]]
)
def test_biases_are_numbers_by_token_id(bias: object) -> None:
    with pytest.raises(ValidationError, match="logit_bias"):
        completion(logit_bias=bias)


def test_unknown_fields_are_ignored() -> None:
    assert completion(chat_template_kwargs={"a": 1}, whatever=[1, 2]) == completion()


@pytest.mark.parametrize(("stop", "said"), [(["a"] * 17, "at most 16"), ([""], "1 to 1024"), ("x" * 1025, "1 to 1024")])
def test_limits_of_stop_strings_are_stated(stop: object, said: str) -> None:
    assert completion(stop=["a"] * 16).stops == ["a"] * 16
    assert completion(stop="a").stops == ["a"]
    with pytest.raises(ApiError, match=said) as refused:
        completion(stop=stop)
    assert refused.value.param == "stop"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 1e300, "1", True, [1]])
def test_numbers_are_numbers_within_range(value: object) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        completion(temperature=value)


@pytest.mark.parametrize("value", [-1, 2**31, 10**400, 1.0, "16", True])
def test_counts_are_whole_numbers_within_range(value: object) -> None:
    with pytest.raises(ValidationError, match="max_tokens"):
        completion(max_tokens=value)


def test_only_completions_may_generate_nothing() -> None:
    assert completion(max_tokens=0).most_tokens == 0
    with pytest.raises(ValidationError, match="max_tokens"):
        chat(max_tokens=0)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "tool", "content": "x"},
        {"role": "tool", "tool_call_id": "1"},
        {"role": "assistant", "tool_calls": []},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f"}}]},
        {"role": "user", "content": "x", "tool_calls": CALLS},
        {"role": "", "content": "x"},
        "x",
    ],
)
def test_messages_that_cannot_be_answered_are_refused(message: object) -> None:
    with pytest.raises(ValidationError, match="messages"):
        chat(messages=[message])


def test_messages_reach_the_template_as_it_expects_them() -> None:
    request = chat(
        messages=[
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ada"},
        ]
    )
    assert [message.for_template() for message in request.messages] == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "ab", "name": "Ada"},
    ]
    with pytest.raises(ValidationError, match="messages"):
        chat(messages=[])


def test_calls_and_their_results_reach_the_template_as_it_expects_them() -> None:
    """Arguments are objects there; null is left out, as in transformers."""
    request = chat(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": CALLS, "name": None},
            {"role": "tool", "content": "12", "tool_call_id": "1"},
        ]
    )
    assert [message.for_template() for message in request.messages] == [
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "12", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize(("spelled", "given"), [("", {}), ("{", "{"), ("[1]", "[1]"), ('{"a": {}}', {"a": {}})])
def test_arguments_that_are_no_object_stay_text(spelled: str, given: object) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": spelled}}]
    [message] = chat(messages=[{"role": "assistant", "tool_calls": calls}]).messages
    assert message.for_template()["tool_calls"][0]["function"]["arguments"] == given


def test_tools_reach_the_template_as_they_were_given() -> None:
    tool = {"function": {"strict": True, "parameters": {"b": 1, "a": None}, "name": "f"}, "x": 1, "type": "function"}
    [found] = chat(tools=[tool]).tools or []
    assert list(found.for_template()) == ["function", "x", "type"]
    assert found.for_template() == tool


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "web_search"}]),
        ("tools", [{"type": "function", "function": {"name": "not a name"}}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": [1]}}]),
        ("tools", {"type": "function"}),
        ("tool_choice", "f"),
        ("tool_choice", {"type": "function", "name": "f"}),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto"}),
        ("parallel_tool_calls", "no"),
        ("chat_template_kwargs", [1]),
    ],
)
def test_what_is_said_about_tools_is_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        chat(**{field: value})


def test_two_tools_cannot_have_one_name() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(ApiError, match="another tool is called f") as refused:
        chat(tools=[tool, tool])
    assert refused.value.param == "tools.1.function.name"


@pytest.mark.parametrize("body", [{}, {"position": 1, "bytes": 2}, {"ttl_seconds": 5}, {"mode": "auto", "position": 0}])
def test_target_is_exactly_one_wish(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="exactly one"):
        TargetRequest.model_validate(body)


@pytest.mark.parametrize(
    "body",
    [
        {"position": -1},
        {"position": "3"},
        {"mode": "manual"},
        {"position": 1, "ttl_seconds": 0},
        {"position": 1, "ttl_seconds": math.nan},
    ],
)
def test_target_values_are_checked(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TargetRequest.model_validate(body)
