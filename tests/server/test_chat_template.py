"""Chat templates: what models ship works, and what a hostile one does is stopped."""

import json
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
    {{- turn(m) ~ (eos_token if not loop.last else '') }}
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


def test_text_of_messages_is_not_a_template() -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "{{ 7 * 7 }}"}]) == "{{ 7 * 7 }}"


def test_long_conversations_are_within_the_limits() -> None:
    messages = [{"role": "user", "content": "word " * 20_000}] * 20
    source = "{% for m in messages %}{{ m.content.strip().split('</think>')[-1] | trim }}{% endfor %}"
    assert len(render(source, messages)) == 20 * 99_999


def sixty_times(body: str) -> str:
    return "{% set ns = namespace(s='aa') %}{% for i in range(60) %}" + body + "{% endfor %}"


HOSTILE = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "long range": "{{ range(1000000000) | list | length }}",
    "string times number": "{{ 'x' * 1000000000 }}",
    "number times list": "{{ 1000000000 * [1] }}",
    "power": "{{ 2 ** 1000000000 }}",
    "formatting": "{{ '%1000000000d' % 1 }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "padding method": "{{ 'x'.ljust(1000000000) }}",
    "padding method by item": "{{ 'x'['ljust'](1000000000) }}",
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
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "paying back": "{% for i in range(9999) %}{{ _pay(-100000000) }}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['json'].x }}",
    "changing the messages": "{{ messages.append(messages[0]) }}",
    "wide JSON": "{{ messages | tojson(indent=1000000000) }}",
    "division by zero": "{{ 1 / 0 }}",
    "wrong types": "{{ 'x' + 1 }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template_is_stopped(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        render(HOSTILE[name])
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "recursive"),
        ("{{ 'x' | center(1000000000) }}", "center"),
        ("{% include 'other' %}", "loader"),
        ("{% for m in %}", "expected|unexpected|Expected"),
    ],
)
def test_template_that_cannot_run_is_an_error_of_the_checkpoint_or_the_request(source: str, named: str) -> None:
    with pytest.raises((CheckpointError, ApiError), match=named):
        render(source)
