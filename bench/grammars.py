"""What it costs to hold answers to a grammar: time to compile and per token, and memory, by size of the vocabulary.

python -m bench.grammars

The texts are drawn at random, so that every vocabulary can be used without a model. Larger ones than the demo's are its
own, with pairs of its tokens.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from bench.conditions import when_and_where
from bench.figures import percentile
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.grammar import Grammar, Grammars
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.sampling import Sampler, SamplingParams
from flexquant.engine.tokenizer import Tokenizer

SIZES: Final = (4096, 32_000, 128_256)
TOKENS: Final = 1000
MIB: Final = 2**20
_ANSWER: Final = {
    "type": "object",
    "properties": {
        "name": {"const": "get_weather"},
        "place": {"type": "string", "maxLength": 80},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit", None]},
    },
    "required": ["name", "place", "days", "unit"],
    "additionalProperties": False,
}
GRAMMARS: Final = {
    "any JSON object": Grammar.of_schema({"type": "object"}),
    "a call of a function": Grammar.of_schema(_ANSWER),
    "a string of up to 10,000 characters": Grammar.of_schema({"type": "string", "maxLength": 10_000}),
    "words and a year, by an expression": Grammar("regex", "([a-z]+ ){3,9}[0-9]{4}"),
}


class Widened(Tokenizer):
    """The demo's tokenizer with as many tokens as one likes; for their bytes alone."""

    def __init__(self, demo: Tokenizer, size: int) -> None:
        self._bytes = [demo.token_bytes(token) for token in range(min(size, demo.vocab_size))]
        words, known, random = [content for content in self._bytes if len(content) > 2], set(self._bytes), Random(0)
        while len(self._bytes) < size:
            pair = random.choice(words) + random.choice(words).strip()
            if pair not in known:
                known.add(pair)
                self._bytes.append(pair)

    def token_bytes(self, token_id: int) -> bytes:
        """See Tokenizer."""
        return self._bytes[token_id]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one grammar. Seconds."""

    compiling: float
    tokens: Sequence[float]
    """What each token took beyond the same choice without a grammar."""


def cost(grammars: Grammars, grammar: Grammar, size: int, tokens: int = TOKENS) -> Cost:
    """Draw so many tokens, in as many texts as that takes."""
    begun = time.perf_counter()
    compiled = grammars.compile(grammar)
    compiling = time.perf_counter() - begun
    noise, taken, constraint = np.random.default_rng(0), list[float](), compiled.start(ignore_eos=True)
    sampler = Sampler(SamplingParams(temperature=0))
    while len(taken) < tokens:
        logits = noise.normal(size=size)
        begun = time.perf_counter()
        constraint.mask(logits)
        masked = time.perf_counter()
        token = sampler.sample(logits.astype(np.float32))
        chosen = time.perf_counter()
        constraint.accept(token)
        taken.append(time.perf_counter() - chosen + masked - begun)
        if constraint.finished:
            constraint = compiled.start(ignore_eos=True)
    return Cost(compiling, taken)


def rows(tokenizer: Tokenizer, sizes: Sequence[int], tokens: int) -> Iterator[str]:
    """A table, line by line, as it is measured."""
    yield "| vocabulary | grammar | compiled in | per token, median | 90 % below |"
    yield "| --- | --- | --- | --- | --- |"
    for size in sizes:
        widened, before, begun = Widened(tokenizer, size), anonymous_bytes(), time.perf_counter()
        grammars = Grammars(widened, size, ())
        grammars.compile(GRAMMARS["any JSON object"])
        first, memory = time.perf_counter() - begun, (anonymous_bytes() - before) / MIB
        yield f"| {size:,} | the first one: {memory:.1f} MiB stay | {first * 1e3:.0f} ms | | |"
        for name, grammar in GRAMMARS.items():
            found = cost(grammars, grammar, size, tokens)
            median, most = (percentile(found.tokens, share) * 1e6 for share in (0.5, 0.9))
            yield f"| {size:,} | {name} | {found.compiling * 1e3:.1f} ms | {median:.0f} µs | {most:.0f} µs |"


def main() -> None:
    """Print conditions and table."""
    for name, value in when_and_where().items():
        sys.stdout.write(f"- {name}: {value}\n")
    demo = Ensemble.open(Path(str(files("flexquant.server"))) / "demo")
    for line in rows(Tokenizer.open(demo.tokenizer_folder), SIZES, TOKENS):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
