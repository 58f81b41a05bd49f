"""Calls are found in any text, however it is cut, and text without one is passed on."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.tools.call_format import CallFormat
from flexquant.server.tools.call_parser import CallArguments, CallParser, CallStart, Content, Part
from flexquant.server.tools.formats import FORMATS
from flexquant.server.tools.hermes import HERMES
from flexquant.server.tools.llama import LLAMA
from flexquant.server.tools.mistral import MISTRAL

NAMES = ("f", "get_weather", "get_time")
Calls = list[tuple[str, str]]

forms = st.sampled_from([form for form, _ in FORMATS])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
arguments = st.dictionaries(st.text(max_size=6), values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=3)
fragments = st.lists(
    st.sampled_from(
        [
            *(
                "<tool_call>",
                "</tool_call>",
                "<tool_call",
                "[TOOL_CALLS]",
                "<|python_tag|>",
                "<|py",
                "[",
                "]",
                "{",
                "}",
            ),
            *('{"name": "f"', '"arguments": {', '"parameters": {', '{"name":"get_', '"a": [1, 2', ", ", ";", " ", "\n"),
            *('"', "\\", ":", "1e", "tru", 'weather"', "text", "é", '"}', "}}", '{"name": "f", "arguments": {}}'),
        ]
    )
    | st.text(max_size=4),
    max_size=14,
).map("".join)


def parsed(form: CallFormat, pieces: Sequence[str], *, single: bool = False) -> tuple[str, Calls]:
    """The text and the calls that are found when `pieces` arrive one after the other."""
    parser = CallParser(form, NAMES, single=single)
    parts: list[Part] = [part for piece in pieces for part in parser.push(piece)]
    parts += parser.finish()
    text, found = "", Calls()
    for part in parts:
        match part:
            case Content(more):
                assert more
                text += more
            case CallStart(index, name):
                assert index == len(found)
                found.append((name, ""))
            case CallArguments(index, more):
                assert more
                assert index == len(found) - 1
                found[-1] = (found[-1][0], found[-1][1] + more)
    assert parser.called is bool(found)
    return text, found


def written(form: CallFormat, listed: list[tuple[str, dict[str, Any]]], space: str = "") -> str:
    """The calls as a model of this form writes them."""
    objects = [json.dumps({"name": name, form.arguments: given}, ensure_ascii=False) for name, given in listed]
    if form.between:
        between = f"{space}{form.between}{space}".join(objects)
        return f"{form.before_call}{space}{between}{space}{form.last}"
    return space.join(f"{form.before_call}{space}{one}{space}{form.last}" for one in objects)


@given(forms, fragments, st.data())
@settings(max_examples=250)
def test_however_the_text_is_cut_the_same_is_found(form: CallFormat, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parsed(form, [text])
    assert parsed(form, pieces) == whole
    assert parsed(form, list(text)) == whole


@given(forms, st.text(max_size=30) | fragments, st.data())
def test_text_without_a_call_passes_unchanged(form: CallFormat, text: str, data: st.DataObject) -> None:
    plain = text.replace(form.opening, "").replace("{", "(")
    if form.opening in plain:
        plain = ""
    place = data.draw(st.integers(0, len(plain)))
    assert parsed(form, [plain[:place], plain[place:]]) == (plain, [])


@given(forms, calls, st.sampled_from(["", " ", "\n", " \r\n\t"]), st.sampled_from(["", "Let me see."]))
def test_calls_are_found_with_their_arguments(
    form: CallFormat, listed: list[tuple[str, dict[str, Any]]], space: str, before: str
) -> None:
    opening = form.opening if form.bare and before else ""
    text, found = parsed(form, [before + space + opening + written(form, listed, space) + space])
    assert text == before
    assert [(name, json.loads(given)) for name, given in found] == listed
    first = parsed(form, [before + space + opening + written(form, listed, space) + space], single=True)
    assert first == (before, found[:1])


@pytest.mark.parametrize("form", [form for form, _ in FORMATS], ids=lambda form: str(form.name))
@pytest.mark.parametrize(
    "call",
    [
        '{"name": "unknown", "arguments": {}}',
        '{"name": "f"}',
        '{"name": "f", "arguments": "{}"}',
        '{"name": "f", "arguments": null}',
        '{"name": 5, "arguments": {}}',
        '{"arguments": {}}',
        '{"title": "f", "name": "f", "arguments": {}}',
        '{"name": "f", "name": "f", "arguments": {}}',
        "{'name': 'f', 'arguments': {}}",
        '{"name": "f" "arguments": {}}',
        '{"name": "f", "arguments"',
        "{}",
        "",
        "f()",
    ],
)
def test_what_is_no_call_stays_text(form: CallFormat, call: str) -> None:
    text = f"{form.before_call}{call}{form.last}"
    assert parsed(form, [text]) == (text, [])
    assert parsed(form, list(text)) == (text, [])


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', ("", [("f", '{"a": 1}')])),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}', ("", [("f", "{}")])),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool_', ("", [("f", "{}")])),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tools>', ("</tools>", [("f", "{}")])),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": [1', ("", [("f", '{"a": [1')])),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": ]}}', ("]}}", [("f", '{"a": ')])),
        (HERMES, '<tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call>', ("<tool_call>", [("f", "{}")])),
        (HERMES, 'a\n<tool_call>{"name": "f", "parameters": {}}</tool_call>\nb', ("ab", [("f", "{}")])),
        (HERMES, '{"name": "f", "arguments": {}}', ('{"name": "f", "arguments": {}}', [])),
        (LLAMA, '{"type": "function", "name": "f", "parameters": {}}', ("", [("f", "{}")])),
        (LLAMA, 'Sure: {"name": "f", "parameters": {}}', ('Sure: {"name": "f", "parameters": {}}', [])),
        (LLAMA, '{"name": "f", "parameters": {}} and more', ("and more", [("f", "{}")])),
        (LLAMA, '<|python_tag|>brave_search.call(query="x")', ('<|python_tag|>brave_search.call(query="x")', [])),
        (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"a": 1}]', (', {"a": 1}]', [("f", "{}")])),
        (MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "123456789"}]', ("", [("f", "{}")])),
        (MISTRAL, "[TOOL_CALLS][]", ("[TOOL_CALLS][]", [])),
    ],
)
def test_what_models_write(form: CallFormat, text: str, expected: tuple[str, Calls]) -> None:
    assert parsed(form, [text]) == expected


def test_no_more_is_held_back_than_may_become_a_call() -> None:
    parser = CallParser(HERMES, NAMES)
    assert parser.push("Let me") == [Content("Let me")]
    assert parser.push(" <tool") == []
    assert parser.push("s> ") == [Content(" <tools>")]
    assert parser.push('a<tool_call>\n{"name": "get_') == [Content(" a")]
    assert parser.push("x") == [Content('<tool_call>\n{"name": "get_x')], "no tool is called so"
    assert parser.push('<tool_call>{"name": "get_time", "arguments": ') == []
    assert parser.push("{") == [CallStart(0, "get_time"), CallArguments(0, "{")]
    assert parser.push('"a": "\x01') == [CallArguments(0, '"a": "'), Content("\x01")], "no JSON"


def test_arguments_go_out_as_they_come() -> None:
    parser = CallParser(LLAMA, NAMES)
    assert parser.push('{"name": "f", "parameters": {') == [CallStart(0, "f"), CallArguments(0, "{")]
    for piece in ('"city', '": "Bonn', '"', "}"):
        assert parser.push(piece) == [CallArguments(0, piece)]
    assert parser.push("}") == []
    assert parser.finish() == []


def test_json_that_is_an_answer_is_not_held_back() -> None:
    parser = CallParser(LLAMA, NAMES)
    assert parser.push('{"name') == []
    assert parser.push('": "Ada", "age": 5}') == [Content('{"name": "Ada", "age": 5}')]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("form", [form for form, _ in FORMATS], ids=lambda form: str(form.name))
def test_long_text_takes_time_in_proportion(form: CallFormat) -> None:
    for unit in (" ", "\n<", form.opening, form.opening + "{", '{"name": "f", "arguments": {'):
        text = unit * (100_000 // len(unit))
        assert parsed(form, [form.opening, text])[0] != "" or unit.startswith("{")
