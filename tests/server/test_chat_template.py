"""Chat templates: what models ship works, and what a hostile one does is stopped."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flexquant.engine.errors import CheckpointError
from flexquant.server.api_error import ApiError
from flexquant.server.chat_template import ChatTemplate

DOCS_LLAMA = Path(__file__).parents[1] / "assets" / "docs-llama"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, messages: list[dict[str, Any]] | None = None) -> str:
    return ChatTemplate(source, TOKENS).render(HELLO if messages is None else messages)


def test_template_of_the_demo_model() -> None:
    source = json.loads((DOCS_LLAMA / "tokenizer_config.json").read_text())["chat_template"]
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert render(source, messages) == "<s><|system|>Be brief.</s><|user|>Hello</s><|assistant|>"


def test_constructs_that_public_templates_use() -> None:
    source = """
    {%- if messages[0]['role'] == 'system' %}{% set system = messages[0].content | trim %}{% set rest = messages[1:] %}
    {%- else %}{% set system = '' %}{% set rest = messages %}{% endif %}
    {%- set ns = namespace(turns=0) %}
    {%- macro turn(m) %}<{{ m.role }}>{{ m['content'].strip().split('</think>')[-1] }}{% endmacro %}
    {%- for m in rest if m.role != 'tool' %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- set ns.turns = ns.turns + 1 %}
    {{- turn(m).replace('b>', 'b>') ~ (eos_token if not loop.last else '') }}
    {%- if loop.index > 8 %}{% break %}{% endif %}
    {%- endfor %}
    {{- '|' + system | upper + '|' ~ ns.turns ~ {'a': ['é', '<']} | tojson }}
    {%- if add_generation_prompt %}<assistant>{% endif %}"""
    messages = [
        {"role": "system", "content": " be kind "},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>x</think>b"},
        {"role": "user", "content": "c"},
    ]
    assert render(source, messages) == '<user>a</s><assistant>b</s><user>c|BE KIND|3{"a": ["é", "<"]}<assistant>'


def test_message_of_a_refusing_template_reaches_the_client() -> None:
    with pytest.raises(ApiError, match="roles must alternate") as refused:
        render("{{ raise_exception('roles must alternate') }}")
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_what_public_templates_use_beyond_that() -> None:
    source = """
    {%- for tool in tools %}{% for key, value in tool | items %}{{ key }}={{ value | tojson(indent=4) }};{% endfor %}
    {%- endfor %}
    {%- for m in messages %}{{ loop.previtem.role if loop.previtem else '-' }}>{{ m.role }}
    {{- '>' ~ (loop.nextitem or m).role }}
    {{- ' mapping' if m is mapping }}{% generation %}{{ m.content.lstrip('H').title() }}{% endgeneration %}{% endfor %}
    {{- [3, 1, 2] | sort | join(',') }}{{ [1, 2] | sum }}{{ 2.5 | round }}
    {{- messages | map(attribute='role') | list | last }}
    {{- strftime_now('%Y') | length }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}
    {{- 'none' if documents is none }}{{ unknown is not defined }}
    {{- messages | selectattr('role', 'in', ['user']) | list | length }}
    {{- dict(a=1).items() | list }}{{ {'x': 1}.get('x') }}{{ 'abc'[::-1] }}"""
    found = ChatTemplate(source, TOKENS).render(HELLO, tools=[{"a": [1]}])
    assert found == (
        "a=[\n    1\n];->user>user mappingEllo1,2,332.0user4"
        """{"a":2,"b":1}noneTrue1[('a', 1)]1cba"""
    )


def test_a_template_of_its_own_writes_conversations_with_tools() -> None:
    template = ChatTemplate("{{ tools is none }}", TOKENS, "{{ tools }}")
    assert template.render(HELLO) == "True"
    assert template.render(HELLO, tools=[{"a": 1}]) == "[{'a': 1}]"
    assert template.tool_source == "{{ tools }}"


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "bos_token", "add_generation_prompt", "namespace"])
def test_variables_of_a_request_cannot_replace_ours(name: str) -> None:
    template = ChatTemplate("{{ calm }}{{ messages[0].content }}", TOKENS)
    assert template.render(HELLO, variables={"calm": [True], "self": 1, "1 2": 2}) == "[True]Hello"
    with pytest.raises(ApiError, match=f"{name} cannot be replaced") as refused:
        template.render(HELLO, variables={"calm": True, name: 1})
    assert refused.value.param == "chat_template_kwargs"


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


@pytest.mark.parametrize("source", ["{{ tools | tojson | length }}", "{{ tools == [[1]] }}", "{{ tools }}"])
def test_tools_that_are_nested_too_deeply_are_a_400(source: str) -> None:
    with pytest.raises(ApiError) as refused:
        ChatTemplate(source, TOKENS).render(HELLO, tools=[deep(100_000)])
    assert refused.value.status == 400


def test_many_tools_are_within_the_limits() -> None:
    tools = [{"function": {"name": f"f{k}", "parameters": {"properties": {"a": "x" * 50}}}} for k in range(500)]
    source = "{% for t in tools %}{{ t | tojson(indent=4) }}{{ t.function.name == 'f1' }}{% endfor %}"
    assert len(ChatTemplate(source, TOKENS).render(HELLO * 20, tools=tools)) > 500 * 100


def test_text_of_messages_is_not_a_template() -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "{{ 7 * 7 }}"}]) == "{{ 7 * 7 }}"


def test_long_conversations_are_within_the_limits() -> None:
    messages = [{"role": "user", "content": "word " * 20_000}] * 20
    source = "{% for m in messages %}{{ m.content.strip().split('</think>')[-1] | trim }}{% endfor %}"
    assert len(render(source, messages)) == 20 * 99_999


def sixty_times(body: str) -> str:
    return "{% set ns = namespace(s='aa') %}{% for i in range(60) %}" + body + "{% endfor %}"


def kept(body: str) -> str:
    """`body` with a long text `x` and many numbers `r` at hand, which were paid once."""
    return "{% set x = 'x' * 400000 %}{% set r = range(40000) %}" + body


def twins(body: str) -> str:
    """`body` with two equal values of 2 ** 60 parts each at hand."""
    doubled = "{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}"
    return "{% set ns = namespace(s='aa', t='a' ~ 'a') %}" + doubled + body


WASTEFUL = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "long range": "{{ range(1000000000) | list | length }}",
    "string times number": "{{ 'x' * 1000000000 }}",
    "number times list": "{{ 1000000000 * [1] }}",
    "doubling by +": sixty_times("{% set ns.s = ns.s + ns.s %}"),
    "doubling by ~": sixty_times("{% set ns.s = ns.s ~ ns.s %}"),
    "doubling by set": sixty_times("{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
    "doubling by join": sixty_times("{% set ns.s = [ns.s, ns.s] | join %}"),
    "doubling by join method": sixty_times("{% set ns.s = ''.join([ns.s, ns.s]) %}"),
    "doubling lists": sixty_times("{% set ns.s = [ns.s, ns.s] %}") + "{{ ns.s }}",
    "doubling lists to JSON": sixty_times("{% set ns.s = [ns.s, ns.s] %}") + "{{ ns.s | tojson | length }}",
    "growth by replace": sixty_times("{% set ns.s = ns.s | replace('a', 'aa') %}"),
    "growth by replace method": sixty_times("{% set ns.s = ns.s.replace('a', 'aa') %}"),
    "fixed text in a loop": "{% for i in range(60000) %}{% set x %}" + "x" * 10_000 + "{% endset %}{% endfor %}",
    "macro tree": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "block tree": (
        "{% set ns = namespace(d=0) %}{% block a %}{% set ns.d = ns.d + 1 %}{% if ns.d < 60 %}"
        "{% if self.a() or self.a() %}{% endif %}{% endif %}{% set ns.d = ns.d - 1 %}{% endblock %}"
    ),
    "nested loops over tools": "{% for t in tools %}" * 9 + "x" + "{% endfor %}" * 9,
    "loops whose turns are left out": kept("{% for i in r %}{% for j in r if false %}{% endfor %}{% endfor %}"),
    "lists again and again": kept("{% for i in r %}{% set y = r | list %}{% endfor %}"),
    "filters of filters": kept("{% for i in r %}{% set y = r | select | map('string') | list %}{% endfor %}"),
    "methods of long text": kept("{% for i in r %}{% set y = x.upper() %}{% endfor %}"),
    "filters of long text": kept("{% for i in r %}{% set y = x | upper %}{% endfor %}"),
    "slices of long text": kept("{% for i in r %}{% set y = x[1:] %}{% endfor %}"),
    "looking in a list": kept("{% set l = r | list %}{% for i in r %}{{ -1 in l }}{% endfor %}"),
    "looking in a list by a test": kept("{% set l = r | list %}{% for i in r %}{{ -1 is in l }}{% endfor %}"),
    "looking in a list by a method": kept("{% set l = r | list %}{% for i in r %}{{ l.count(-1) }}{% endfor %}"),
    "trimming many characters": kept("{{ x.strip('b' * 400000 ~ 'x') }}{{ x | trim('b' * 400000) }}"),
    "giant tojson": "{{ tools | tojson | length }}{% for i in range(9999) %}{{ tools | tojson | length }}{% endfor %}",
    "spelling out nested lists": sixty_times("{% set ns.s = [ns.s, ns.s] %}") + "{{ ns.s | string | length }}",
    "testing nested lists": sixty_times("{% set ns.s = [ns.s, ns.s] %}") + "{{ ns.s is lower }}",
    "replacing in nested lists": sixty_times("{% set ns.s = [ns.s, ns.s] %}") + "{{ ns.s | replace('a', 'b') }}",
    "refusing with nested lists": sixty_times("{% set ns.s = [ns.s, ns.s] %}") + "{{ raise_exception(ns.s) }}",
    "comparing nested lists": twins("{{ ns.s == ns.t }}"),
    "comparing nested lists by a test": twins("{{ ns.s is eq(ns.t) }}"),
    "comparing nested lists by a filter": twins("{{ [[ns.s], [ns.t]] | sort }}"),
    "comparing nested lists by selectattr": twins("{{ [{'a': ns.s}] | selectattr('a', 'eq', ns.t) | list }}"),
    "comparing nested lists in a loop": twins("{% for x in [ns.s, ns.t] %}{{ loop.changed(x) }}{% endfor %}"),
    "finding nested lists": twins("{{ [ns.s].index(ns.t) }}"),
    "hashing nested tuples": sixty_times("{% set ns.s = (ns.s, ns.s) %}") + "{{ {}[ns.s] }}",
    "hashing nested tuples as keys": sixty_times("{% set ns.s = (ns.s, ns.s) %}") + "{{ {ns.s: 1} }}",
    "hashing nested tuples by get": sixty_times("{% set ns.s = (ns.s, ns.s) %}") + "{{ {}.get(ns.s) }}",
    "hashing nested tuples by in": sixty_times("{% set ns.s = (ns.s, ns.s) %}") + "{{ ns.s in {} }}",
    "comparing lists of nothing": kept(
        "{% set l, m = [''] * 9999, [''] * 9999 %}{% for i in r %}{{ l == m }}{% endfor %}"
    ),
    "its own price": kept(
        "{% set _pay = {}.get %}{% set pay = {}.get %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}"
    ),
}
"""They run out of what their messages pay for."""

FORBIDDEN = {
    "power": "{{ 2 ** 1000000000 }}",
    "formatting": "{{ '%1000000000d' % 1 }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "padding method": "{{ 'x'.ljust(1000000000) }}",
    "padding method by item": "{{ 'x'['ljust'](1000000000) }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "paying back": "{% for i in range(9999) %}{{ _pay(-100000000) }}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "tojson with wide separators": "{{ tools | tojson(separators=('x' * 9999, ':')) }}",
    "growing sums": sixty_times("{% set ns.s = [[ns.s], [ns.s]] | sum(start=[]) %}") + "{{ ns.s }}",
    "squaring numbers": "{% set ns = namespace(n=7) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "rounding to nothing": "{{ 5 | round(-1000000000) }}",
    "rounding up": "{{ 5 | round(1000000000, 'ceil') }}",
    "deep recursion through macros": (
        "{% macro a(n) %}{{ b(n) }}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}"
    ),
    "recursion through callers": (
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{% call m() %}{% endcall %}"
    ),
    "the environment": "{{ self._TemplateReference__context.environment.pay }}{{ environment.pay(-5) }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "code of the loop": "{% for m in messages %}{{ loop._iterable.gi_frame.x }}{% endfor %}",
    "attributes by map": "{{ (messages | map(attribute='__class__') | first)() }}",
    "format of a format": "{{ ''.format_map({}) }}",
    "changing the tools": "{{ tools.clear() }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['json'].x }}",
    "changing the messages": "{{ messages.append(messages[0]) }}",
    "wide JSON": "{{ messages | tojson(indent=1000000000) }}",
    "division by zero": "{{ 1 / 0 }}",
    "wrong types": "{{ 'x' + 1 }}",
}
"""They do what no template may do, or cannot go on."""


@pytest.mark.parametrize("name", [*WASTEFUL, *FORBIDDEN])
@pytest.mark.timeout(60)
def test_hostile_template_is_stopped(name: str) -> None:
    tools = [{"function": {"name": f"f{k}", "description": "x" * 50}} for k in range(60)]
    began = time.process_time()
    with pytest.raises(ApiError) as refused:
        ChatTemplate((WASTEFUL | FORBIDDEN)[name] + "{{ tools and '' }}", TOKENS).render(HELLO, tools=tools)
    assert ("more work" in refused.value.message) is (name in WASTEFUL), refused.value.message
    assert time.process_time() - began < 10
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "recursive"),
        ("{{ 'x' | center(1000000000) }}", "center"),
        ("{% include 'other' %}", "loader"),
        ("{% for m in %}", "expected|unexpected|Expected"),
        ("{% for m in messages %}" * 30 + "{% endfor %}" * 30, "nested"),
        ("{{ messages | attr('__class__') }}", "attr"),
        ("{{ '{0.__class__}' | format(1) }}", "format"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "."),
        ("{{ " + "-" * 5000 + "1 }}", "."),
        ("{{ [] " + "| list " * 5000 + "}}", "."),
    ],
)
def test_template_that_cannot_run_is_an_error_of_the_checkpoint_or_the_request(source: str, named: str) -> None:
    with pytest.raises((CheckpointError, ApiError), match=named):
        render(source)
