"""Texts drawn at random under a grammar are what it says; what cannot be is an error for people."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine import grammar_check
from flexquant.engine.errors import ConstraintError, FlexQuantError, GrammarError
from flexquant.engine.grammar import MAX_SOURCE, Grammar, Grammars
from flexquant.engine.grammar_constraint import CompiledGrammar
from flexquant.engine.sampling import Sampler, SamplingParams
from flexquant.engine.tokenizer import Tokenizer
from support.fake_model import DOCS_LLAMA
from support.random_schemas import random_schema

LETTERS = "abcdefghijklmnopqrst"
VOCABULARY = 4100
"""The model's, which goes beyond the tokenizer's."""
EOS = (1, 4)
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "structured-output.md"
TOKENIZER = Tokenizer.open(DOCS_LLAMA)
GRAMMARS = Grammars(TOKENIZER, VOCABULARY, EOS)
SPECIAL = [token for token in range(VOCABULARY) if not TOKENIZER.token_bytes(token)]


def drawn(compiled: CompiledGrammar, seed: int, *, ignore_eos: bool = False, most: int = 300) -> tuple[str, bool]:
    """A text of random tokens, and whether it came to its end."""
    constraint = compiled.start(ignore_eos=ignore_eos)
    sampler = Sampler(SamplingParams(seed=seed), constraint=constraint)
    noise = np.random.default_rng(seed)
    tokens: list[int] = []
    while not constraint.finished and len(tokens) < most:
        tokens.append(sampler.sample(noise.normal(size=VOCABULARY).astype(np.float32) * 3))
    assert not {*tokens} & {*SPECIAL} - {*EOS}
    assert not {*tokens[:-1]} & {*EOS}
    return TOKENIZER.decode(tokens), constraint.finished


def allowed(constraint: Any) -> list[int]:
    """Tokens that may come next."""
    logits = np.zeros(VOCABULARY)
    constraint.mask(logits)
    return [int(token) for token in np.flatnonzero(logits == 0)]


@settings(deadline=None, max_examples=60)
@given(
    pattern=st.sampled_from(
        [
            "[0-9]{1,4}",
            "(foo|bar)(, (foo|bar)){0,3}",
            "é{2}|[^a]",
            "a/b\\.c",
            "\\p{L}{3} \\$[1-9]",
            " x\n",
            "(?i)yes|no",
        ]
    ),
    seed=st.integers(0, 1000),
    ignore_eos=st.booleans(),
)
def test_a_text_is_what_the_expression_says(pattern: str, seed: int, ignore_eos: bool) -> None:
    text, finished = drawn(GRAMMARS.compile(Grammar("regex", pattern)), seed, ignore_eos=ignore_eos)
    assert finished
    assert re.fullmatch(pattern.replace("\\p{L}", "[^\\W\\d_]"), text)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_random_texts_are_what_random_schemas_say(seed: int) -> None:
    schema = random_schema(seed)
    text, finished = drawn(GRAMMARS.compile(Grammar.of_schema(schema)), seed, most=2000)
    assert finished, "they are all bounded"
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@settings(deadline=None, max_examples=30)
@given(choices=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=5))
def test_a_choice_is_one_of_them_whatever_they_are(choices: list[str]) -> None:
    compiled = GRAMMARS.compile(Grammar.of_choices(choices))
    for seed in range(3):
        text, finished = drawn(compiled, seed)
        assert finished
        assert text in choices


def test_whitespace_in_json_is_limited() -> None:
    compiled = GRAMMARS.compile(Grammar.of_schema({"const": {"a": [1, 2]}}))
    for seed in range(20):
        text, finished = drawn(compiled, seed)
        assert finished
        assert json.loads(text) == {"a": [1, 2]}
        assert all(len(found) <= 41 for found in re.findall(r"\s+", text))


def test_grammars_in_lark_may_recur() -> None:
    compiled = GRAMMARS.compile(Grammar("lark", 'start: "(" start ")" | "x"'))
    for seed in range(5):
        text, finished = drawn(compiled, seed, most=60)
        depth = text.count("(")
        assert text == "(" * depth + "x" + ")" * depth if finished else depth > 10


def test_answers_to_one_grammar_do_not_share_their_state() -> None:
    compiled = GRAMMARS.compile(Grammar("regex", "ab|cd"))
    one, other = compiled.start(ignore_eos=False), compiled.start(ignore_eos=False)
    (a,) = TOKENIZER.encode("a", bos=False)
    (c,) = TOKENIZER.encode("c", bos=False)
    one.accept(a)
    other.accept(c)
    assert [TOKENIZER.decode([token]) for token in allowed(one)] == ["b"]
    assert [TOKENIZER.decode([token]) for token in allowed(other)] == ["d"]
    assert {a, c} < set(allowed(compiled.start(ignore_eos=False)))


def test_the_end_is_allowed_where_the_text_is_complete_and_only_unless_it_is_ignored() -> None:
    compiled = GRAMMARS.compile(Grammar("regex", "a+"))
    (a,) = TOKENIZER.encode("a", bos=False)
    for ignore_eos in (False, True):
        constraint = compiled.start(ignore_eos=ignore_eos)
        assert not {*EOS} & {*allowed(constraint)}
        constraint.accept(a)
        assert {*EOS} & {*allowed(constraint)} == (set() if ignore_eos else {*EOS})
        assert not constraint.finished, "more could follow"
    constraint = compiled.start(ignore_eos=False)
    constraint.accept(a)
    constraint.accept(EOS[1])
    assert constraint.finished


def test_a_text_that_cannot_go_on_is_an_error_for_people() -> None:
    compiled = GRAMMARS.compile(Grammar("lark", f'start: "a" <[{SPECIAL[0]}]>'))
    constraint = compiled.start(ignore_eos=False)
    constraint.accept(allowed(constraint)[0])
    assert not constraint.finished
    with pytest.raises(ConstraintError, match=r"after token 1, .* special tokens"):
        constraint.mask(np.zeros(VOCABULARY))


def test_a_token_against_the_grammar_is_an_error_for_people() -> None:
    constraint = GRAMMARS.compile(Grammar("regex", "ab")).start(ignore_eos=False)
    (c,) = TOKENIZER.encode("c", bos=False)
    with pytest.raises(ConstraintError, match="after token 1"):
        constraint.accept(c)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        *((lambda name=name: Grammar.of_schema({"properties": {"a": {name: {}}}}), name) for name in ("not", "if")),
        *((lambda name=name: Grammar.of_schema({name: {}}), name) for name in ("contains", "propertyNames")),
        (lambda: Grammar.of_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: Grammar.of_schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (lambda: Grammar.of_schema({"type": "string", "format": "colour"}), "colour"),
        (lambda: Grammar.of_schema({"type": "strin"}), "strin"),
        (lambda: Grammar.of_schema({"$ref": "#/$defs/gone"}), "gone"),
        (lambda: Grammar.of_schema({"$ref": "http://example.org/schema"}), "example.org"),
        (lambda: Grammar.of_schema({"enum": []}), "Unsatisfiable"),
        (lambda: Grammar.of_schema({"enum": ["\ud800"]}), "hex escape"),
        (lambda: Grammar.of_schema({"x-guidance": {"lenient": True}, "not": {}}), "x-guidance"),
        (lambda: Grammar.of_schema({"allOf": [{"type": "string", "pattern": f".{i}."} for i in range(15)]}), "…$"),
        (lambda: Grammar.of_schema({"allOf": [{"not": {}}]}), "not"),
        (lambda: Grammar("regex", "("), "unclosed group"),
        (lambda: Grammar("regex", "a(?=b)"), "look-around"),
        (lambda: Grammar("regex", ""), "empty"),
        (lambda: Grammar("regex", "\ud800"), "surrogate"),
        (lambda: Grammar("lark", "start: gone"), r"at 1\(8\): unknown name: \"gone\""),
        (lambda: Grammar("lark", 'start: <|user|> "a"'), "special tokens"),
        (lambda: Grammar("lark", f"start: <[{SPECIAL[0]}]>"), "no text"),
        (lambda: Grammar("lark", "start: %json {"), "key must be a string"),
        (lambda: Grammar("lark", "#" * (MAX_SOURCE + 1)), f"at most {MAX_SOURCE}"),
    ],
)
def test_what_cannot_be_used_is_named(make: Callable[[], Grammar], said: str) -> None:
    with pytest.raises(GrammarError, match=said) as refused:
        GRAMMARS.compile(make())
    assert "\n" not in refused.value.message
    assert "guidance {" not in refused.value.message, "what we add is no matter of the client's"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.of_schema({"allOf": [{"type": "string", "pattern": f".{i}."} for i in range(40)]}),
        Grammar(
            "lark", "start: A\nA: /(.|\\n)*/ & " + " & ".join(f"~/(.|\\n)*{letter}(.|\\n)*/" for letter in LETTERS)
        ),
    ],
)
def test_what_would_take_hours_is_given_up(grammar: Grammar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick = tmp_path / "grammar_check.py"
    quick.write_text(
        Path(grammar_check.__file__).read_text().replace("CPU_SECONDS: Final = 5", "CPU_SECONDS: Final = 1")
    )
    monkeypatch.setattr(grammar_check, "__file__", str(quick))
    with pytest.raises(GrammarError, match="too complex"):
        GRAMMARS.compile(grammar)


def test_intersections_that_are_no_trouble_are_followed() -> None:
    compiled = GRAMMARS.compile(Grammar.of_schema({"allOf": [{"type": "integer", "minimum": 7}, {"maximum": 9}]}))
    assert {drawn(compiled, seed)[0] for seed in range(20)} == {"7", "8", "9"}
    compiled = GRAMMARS.compile(Grammar("lark", "start: A\nA: /[a-c]{2}/ & ~/a./"))
    assert {drawn(compiled, seed)[0][0] for seed in range(20)} == {"b", "c"}


def test_a_check_that_does_not_run_is_no_fault_of_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_check, "__file__", "/gone.py")
    with pytest.raises(FlexQuantError, match=r"could not be checked: .*gone\.py"):
        GRAMMARS.compile(Grammar.of_schema({"allOf": [{"type": "integer"}]}))


def listed(after: str) -> list[str]:
    """Words of the page on structured output from `after` to the next semicolon."""
    text = PAGE.read_text().partition(after)[2].partition(";")[0]
    return re.findall(r"[$\w-]+", text)


def test_the_page_says_which_keywords_and_formats_there_are() -> None:
    keywords = listed("except for:")
    assert len(keywords) == 10
    for name in keywords:
        schema = {"type": "array", name: True if name == "uniqueItems" else "#" if name[0] == "$" else {}}
        with pytest.raises(GrammarError, match=f'not supported: \\["{re.escape(name)}"\\]'):
            GRAMMARS.compile(Grammar.of_schema(schema))
    formats = [word for word in listed("`format` beyond") if word != "and"][:10]
    assert formats[-1] == "uri"
    for name in formats:
        GRAMMARS.compile(Grammar.of_schema({"type": "string", "format": name}))


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(GrammarError, match="recursion limit"):
        GRAMMARS.compile(Grammar.of_schema(schema))
    for _ in range(20_000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="nested too deeply"):
        Grammar.of_schema(schema)


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(["regex", "lark"]), seed=st.integers(0, 10**6))
def test_any_source_is_compiled_or_refused(kind: Any, seed: int) -> None:
    random = Random(seed)
    source = "".join(random.choices('ab(){}[]|*+?\\^$.-,:/"% \n0129start<>', k=random.randint(0, 30)))
    with suppress(GrammarError, ConstraintError):  # nothing else, and no waiting
        drawn(GRAMMARS.compile(Grammar(kind, source)), seed, most=10)
