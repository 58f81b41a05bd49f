"""How large a run is: the model's shape, and how often and how long everything is measured."""

from dataclasses import dataclass
from typing import Final

BITS: Final = (8, 4, 3, 2)
"""Levels of our model: widths of all layers and the head, in groups of 32 weights."""
NESTED_BITS: Final = (8, 4)
"""Levels of our nested model."""
PLANE_BITS: Final = (6, 5, 4, 3)
"""Levels of our Any-Precision model, and of the EXL2 model that it is compared with."""


@dataclass(frozen=True, slots=True)
class BenchShape:
    """A Llama with head_dim `hidden / heads`, untied head, random weights."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    """Most tokens of one sequence."""

    @property
    def name(self) -> str:
        """Says all of it; part of file names, so that a cached model is never one of another shape."""
        return (
            f"{self.layers}x{self.hidden}x{self.intermediate}-h{self.heads}-kv{self.kv_heads}"
            f"-v{self.vocab}-c{self.context}"
        )

    @property
    def linears(self) -> int:
        """Linear layers, head included: moves of a sequence that takes all of them down by one level."""
        return 7 * self.layers + 1


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of one run. Every figure is the median of `rounds`; we and the peer take turns in every round."""

    shape: BenchShape
    rounds: int
    prompt_tokens: int
    """Of a decode measurement, so that attention has something to look at and little to do."""
    warm_tokens: int
    """Untimed tokens before the timed ones: after a move the new pages are touched for the first time."""
    decode_tokens: int
    prefill_tokens: int
    prefill_rounds: int
    batch_sequences: int
    context_tokens: int
    """Tokens in the cache of the context suite."""
    positions: int
    """Positions of the line through time and footprint."""
    sweeps: int
    """Round trips of the swap suite."""
    starts: int
    """Server starts of the load suite."""
    serve_rounds: int
    answer_tokens: int
    """Of an answer of the serve suite."""
    serve_context: int
    """Tokens of one sequence in the serve suite."""
    shared_tokens: int
    """Of the prefix that prompts share."""
    long_tokens: int
    """Of the prompt that goes in while others decode."""
    long_rounds: int
    reaction_runs: int
    conversation_tokens: int
    """Of the conversation that goes on while memory gets short."""
    hold_seconds: float
    """For which another program keeps memory short."""
    patience_seconds: float
    """Of the law under pressure: its window and its first cool-down."""
    calibration_bytes: int
    """Size of the array that the read bandwidth is measured on; far beyond every cache."""


FULL: Final = Scale(
    # 1.1 B parameters: layers of Llama 3.2 1B, the vocabulary of Llama 2.
    shape=BenchShape(hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, vocab=32_000, context=8192),
    rounds=7,
    prompt_tokens=16,
    warm_tokens=4,
    decode_tokens=32,
    prefill_tokens=512,
    prefill_rounds=5,
    batch_sequences=8,
    context_tokens=4096,
    positions=10,
    sweeps=8,
    starts=5,
    serve_rounds=5,
    answer_tokens=64,
    serve_context=4096,
    shared_tokens=512,
    long_tokens=2000,
    long_rounds=2,
    reaction_runs=50,
    conversation_tokens=1000,
    hold_seconds=20.0,
    patience_seconds=30.0,
    calibration_bytes=1 << 30,
)

QUICK: Final = Scale(
    shape=BenchShape(hidden=256, intermediate=512, layers=2, heads=4, kv_heads=2, vocab=1024, context=1024),
    rounds=2,
    prompt_tokens=4,
    warm_tokens=1,
    decode_tokens=4,
    prefill_tokens=64,
    prefill_rounds=2,
    batch_sequences=8,
    context_tokens=256,
    positions=4,
    sweeps=2,
    starts=1,
    serve_rounds=2,
    answer_tokens=500,  # short ones would be over before the fourth has begun
    serve_context=1024,
    shared_tokens=512,
    long_tokens=768,
    long_rounds=1,
    reaction_runs=5,
    conversation_tokens=256,
    hold_seconds=3.0,
    patience_seconds=2.0,
    calibration_bytes=1 << 26,
)
