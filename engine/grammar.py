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
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from flexquant.engine.constraint import Constraint
from flexquant.engine.errors import ConstraintError, FlexQuantError, GrammarError
from flexquant.engine.memory.heap import trim_heap
from flexquant.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_SOURCE: Final = 256 * 1024
"""Characters that a grammar may have."""
WHITESPACE: Final = r" |\n[ \t]{0,40}"
"""What may stand where JSON allows whitespace: a space, or a new line and its indent. Without a limit, a model that
has nothing to say may go on with whitespace for ever."""
_NO_FORCING: Final = '\n%llguidance {"no_forcing": true}\n'
"""Where only one text is possible, its tokens are chosen by the model all the same, not by a tokenizer called from
within llguidance."""
_SLICES: Final = [r'[^"\\\x00-\x1F\x7F]{1,30}']
"""Tokens that llguidance looks at together: what strings in JSON are made of.

Measured by bench.grammars with a vocabulary of 128,000: without it, a bounded string takes 6.4 ms per token instead of
0.3; with llguidance's own four slices the vocabulary takes 64 MiB instead of 31, and no token takes less time.
"""
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
        self._vocabulary: _Vocabulary | None = None

    def compile(self, grammar: Grammar) -> "CompiledGrammar":
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
                self._vocabulary = _Vocabulary(self._tokenizer, self._vocab_size, self._eos_ids)
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


class CompiledGrammar:
    """A grammar that is ready to hold any number of answers to it."""

    def __init__(self, matcher: "LLMatcher", vocabulary: "_Vocabulary") -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def start(self, *, ignore_eos: bool) -> "GrammarConstraint":
        """The constraint of one answer, from its start.

        Args:
            ignore_eos: End-of-sequence tokens do not end the answer, so it has none of them.
        """
        return GrammarConstraint(self._matcher.deep_copy(), self._vocabulary, ignore_eos=ignore_eos)


class GrammarConstraint(Constraint):
    """Follows one answer. What may come next is found as soon as a token is there, so the end is seen at once."""

    def __init__(self, matcher: "LLMatcher", vocabulary: "_Vocabulary", *, ignore_eos: bool) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self._matcher = matcher
        self._vocabulary = vocabulary
        self._ending = () if ignore_eos else vocabulary.eos_ids
        self._tokens = 0
        self._bits = allocate_token_bitmask(1, len(vocabulary.is_text) + 1)
        self._forbidden: npt.NDArray[np.bool_]
        self.stuck = False
        """Whether nothing can follow and the text is not complete."""
        self._finished = False
        self._look()

    @property
    def finished(self) -> bool:
        """See Constraint."""
        return self._finished

    def mask(self, logits: npt.NDArray[np.float64]) -> None:
        """See Constraint."""
        if self.stuck:
            raise ConstraintError(
                f"after token {self._tokens}, the grammar asks for what this model has no tokens for, such as special "
                "tokens, which cannot be part of a constrained text"
            )
        logits[self._forbidden] = -np.inf

    def accept(self, token: int) -> None:
        """See Constraint."""
        if token in self._ending:
            self._finished = True
            return
        self._tokens += 1
        self._matcher.consume_token(token)  # after a failure it says so itself
        self._look()

    def _look(self) -> None:
        """Find what may come next."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            problem = self._matcher.get_error().partition("\n")[0]
            raise ConstraintError(f"after token {self._tokens}, the grammar cannot be followed: {problem}")
        bits = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little").view(np.bool_)
        size = len(self._vocabulary.is_text)
        # A grammar that names tokens by their ids may name the end itself.
        complete = bool(bits[size]) and self._matcher.is_accepting()
        allowed = bits[:size] & self._vocabulary.is_text
        nothing = not allowed.any()
        self._finished, self.stuck = complete and nothing, not complete and nothing
        if complete:
            allowed[list(self._ending)] = True
        self._forbidden = ~allowed


class _Vocabulary:
    """A model's tokens for llguidance: those that stand for text, and one more, behind them, for the end of the text.

    So it does not matter how many end-of-sequence tokens the model has, and special tokens cannot be part of a text.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, eos_ids: tuple[int, ...]) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self.tokens = [b"" if token in eos_ids else tokenizer.token_bytes(token) for token in range(size)]
        self.is_text = np.array([bool(content) for content in self.tokens])
        self.tokens.append(b"")
        self.eos_token_id, self.bos_token_id = size, None
        self.eos_ids = tuple(token for token in eos_ids if token < size)
        wrapper = TokenizerWrapper(self)
        self.library = LLTokenizer(wrapper, slices=_SLICES)
        # The library has a copy.
        self.tokens = []
        wrapper.tokens = ()
        trim_heap()


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
