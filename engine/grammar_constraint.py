"""Answers that follow a compiled grammar: the tokens of a model as llguidance sees them, and which may come next."""

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from flexquant.engine.constraint import Constraint
from flexquant.engine.errors import ConstraintError
from flexquant.engine.memory.heap import trim_heap
from flexquant.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

_SLICES: Final = [r'[^"\\\x00-\x1F\x7F]{1,30}']
"""Tokens that llguidance looks at together: what strings in JSON are made of.

Measured by bench.grammars with a vocabulary of 128,000: without it, a bounded string takes 6.4 ms per token instead of
0.3; with llguidance's own four slices the vocabulary takes 64 MiB instead of 31, and no token takes less time.
"""


class Vocabulary:
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


class CompiledGrammar:
    """A grammar that is ready to hold any number of answers to it."""

    def __init__(self, matcher: "LLMatcher", vocabulary: Vocabulary) -> None:
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

    def __init__(self, matcher: "LLMatcher", vocabulary: Vocabulary, *, ignore_eos: bool) -> None:
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
