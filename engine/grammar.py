"""Grammars that an answer has to follow, by llguidance.

llguidance follows a text with an Earley parser over a lexer of regular expressions' derivatives, and finds the tokens
that may come next in tens of microseconds, so nothing but the grammar itself is compiled beforehand. It is imported
with the first grammar: who asks for none does not pay for it.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from flexquant.engine.errors import ConstraintError, FlexQuantError, GrammarError
from flexquant.engine.grammar_constraint import CompiledGrammar, Vocabulary
from flexquant.engine.tokenizer import Tokenizer

MAX_SOURCE: Final = 256 * 1024
"""Characters that a grammar may have."""
WHITESPACE: Final = r" |\n[ \t]{0,40}"
"""What may stand where JSON allows whitespace: a space, or a new line and its indent. Without a limit, a model that
has nothing to say may go on with whitespace for ever."""
_NO_FORCING: Final = '\n%llguidance {"no_forcing": true}\n'
"""Where only one text is possible, its tokens are chosen by the model all the same, not by a tokenizer called from
within llguidance."""
_FEW_PATTERNS: Final = 5
"""So many can be intersected in no time."""
_CONTEXT: Final = re.compile(r"\n +\d+ \| .*", re.DOTALL)
"""The excerpt of the grammar behind a message."""
_MOST_SAID: Final = 300
"""Characters of a message; some have the whole grammar in them."""
_POSITION: Final = re.compile(r"^at \d+\(\d+\): ")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a text has to be, from its first character to its last.

    Args:
        kind: How `source` says it: a JSON schema, as `of_schema` writes it; a regular expression in the syntax of
            Rust's crate regex, without assertions; or llguidance's variant of Lark.
        source: The schema, expression or grammar.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str

    @classmethod
    def of_schema(cls, schema: dict[str, Any]) -> "Grammar":
        """JSON that a schema (draft 2020-12) allows.

        Raises:
            GrammarError: It is nested too deeply, or has options of llguidance, such as to ignore unknown keywords.
        """
        if "x-guidance" in schema:
            raise GrammarError("x-guidance is not supported in a schema")
        try:
            return cls("json_schema", json.dumps(schema | {"x-guidance": {"whitespace_pattern": WHITESPACE}}))
        except RecursionError as error:
            raise GrammarError("the schema is nested too deeply") from error

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> "Grammar":
        """One of these texts."""
        return cls("lark", "start: " + " | ".join(map(json.dumps, choices)))


class Grammars:
    """Compiles grammars for the vocabulary of one model. Every method may be called from any thread.

    Args:
        tokenizer: The model's.
        vocab_size: Logits of the model.
        eos_ids: Tokens that end its sequences.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = tuple(eos_ids)
        self._building = threading.Lock()
        self._vocabulary: Vocabulary | None = None

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Make a grammar ready for answers.

        It takes milliseconds; a tenth of a second where patterns are intersected; up to a second for the first one.

        Raises:
            GrammarError: It has a mistake, a keyword that is not supported, or is too complex; or it allows no text
                beyond the empty one.
        """
        from llguidance import LLMatcher

        from flexquant.engine.grammar_check import parser_limits

        if len(grammar.source) > MAX_SOURCE:
            raise GrammarError(f"it has {len(grammar.source)} characters; at most {MAX_SOURCE} are possible")
        try:
            grammar.source.encode()
        except UnicodeEncodeError as error:
            raise GrammarError("it has half of a surrogate pair, which is no character") from error
        with self._building:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._tokenizer, self._vocab_size, self._eos_ids)
        if _may_take_long(grammar):
            _try(grammar)
        matcher = LLMatcher(self._vocabulary.library, _lark(grammar), log_level=0, limits=parser_limits())
        if matcher.is_error():
            raise GrammarError(_mistake(grammar, matcher.get_error()))
        compiled = CompiledGrammar(matcher, self._vocabulary)
        try:
            first = compiled.start(ignore_eos=False)
        except ConstraintError as error:
            raise GrammarError(error.message) from error
        if first.finished or first.stuck:
            raise GrammarError("there is no text of this model's tokens that it allows, but for the empty one")
        return compiled


def _lark(grammar: Grammar) -> str:
    """Every kind in llguidance's Lark, the only one in which its options can be set."""
    from llguidance import LLMatcher

    match grammar.kind:
        case "lark":
            return grammar.source + _NO_FORCING
        case "regex":
            made = json.loads(LLMatcher.grammar_from_regex(grammar.source))
            return str(made["grammars"][0]["lark_grammar"]) + _NO_FORCING
        case "json_schema":
            return f"start: %json {grammar.source}{_NO_FORCING}"


def _may_take_long(grammar: Grammar) -> bool:
    """Whether it may intersect many patterns, which llguidance does not limit."""
    if grammar.kind == "lark":
        return any(word in grammar.source for word in ("&", "~", "%json", "%regex"))
    patterns = sum(grammar.source.count(f'"{word}"') for word in ("pattern", "patternProperties", "format"))
    return '"allOf"' in grammar.source or patterns > _FEW_PATTERNS


def _try(grammar: Grammar) -> None:
    """Compile a grammar in a process that the system ends when it takes too long.

    Raises:
        GrammarError: It has a mistake, or takes too long.
        FlexQuantError: There is no such process.
    """
    from flexquant.engine import grammar_check

    # -P: the program's own folder has modules that are no one else's business.
    command = [sys.executable, "-P", grammar_check.__file__]
    ended = subprocess.run(command, input=_lark(grammar).encode(), capture_output=True, check=False)
    if ended.returncode > 0:
        problem = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise FlexQuantError(f"the grammar could not be checked: {problem}")
    if ended.returncode < 0:
        raise GrammarError(f"it is too complex: after {grammar_check.CPU_SECONDS} s it is not compiled")
    if ended.stdout:
        raise GrammarError(_mistake(grammar, ended.stdout.decode()))


def _mistake(grammar: Grammar, error: str) -> str:
    """llguidance's message in one line, without the excerpt of the grammar; with the place in one that was given."""
    if error.startswith("panic"):
        return "it cannot be read; special tokens, for one, cannot be part of it"
    error = _CONTEXT.sub("", error)
    if grammar.kind != "lark":
        error = _POSITION.sub("", error)
        for prefix in ("failed to compile JSON schema: ", 'failed to parse "%json": '):
            error = error.removeprefix(prefix)
    error = " ".join(error.replace("Unimplemented keys:", "these keywords are not supported:").split())
    return error if len(error) <= _MOST_SAID else f"{error[:_MOST_SAID]}…"
