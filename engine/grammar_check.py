"""A program that compiles a grammar and says what is wrong with it, for grammars that may take for ever.

llguidance limits what it does, but not everything: the intersection of twenty patterns takes seconds, of thirty hours,
and nothing can interrupt it. So such grammars are tried here first, in a process with limits of its own, over a
vocabulary of the 256 bytes. Nothing else of the package is imported: it starts in a tenth of a second.

The grammar, in llguidance's Lark, comes from stdin; llguidance's message, or nothing, goes to stdout.
"""

import resource
import sys
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

CPU_SECONDS: Final = 5
MEMORY: Final = 2**30
"""Bytes of address space, of which 64 MiB are taken before it begins."""


class _Bytes:
    """Each byte is a token; one more stands for the end of the text."""

    eos_token_id = 256
    bos_token_id = None

    def __init__(self) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b""]


def parser_limits() -> LLParserLimits:
    """Half of llguidance's own, and a sixth of its lexer's states.

    By its authors' figures 10 ms for a lexer and 8 ms for a token at most. Measured: 12,500 states take 7.5 MiB, so an
    answer takes 25 MiB at most.
    """
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=25_000,
        max_lexer_states=40_000,
        max_grammar_size=250_000,
        verbose_errors=False,
    )


def main() -> None:
    """Check the grammar; killed by the system if that takes too long."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source = sys.stdin.buffer.read().decode()
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), source, log_level=0, limits=parser_limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    sys.stdout.write(matcher.get_error())


if __name__ == "__main__":
    main()
