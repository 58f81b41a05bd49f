"""What runs a model, seen from whoever schedules and samples: the same for every kind of machine."""

from collections.abc import Callable, Sequence
from typing import Protocol

from flexquant.engine.kv_cache import KVSequence
from flexquant.engine.memory.registry import MemorySnapshot
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.segment import Floats, Segment, Tokens, nothing


class Backend(Protocol):
    """Runs one model; sampling, scheduling and the policy for KV pages are not its concern. One thread uses it."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        ...

    def new_sequence(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> KVSequence:
        """Return a sequence that can grow to `tokens` tokens.

        Args:
            tokens: To reserve memory for.
            prompt: int64 [n], what the sequence will begin with. As many of these, but never the last, as were kept
                from earlier sequences are there already: `cached_tokens`.
            exact: Only what was computed at the present position of the model is used again.

        Raises:
            KVExhaustedError: So many are not free.
        """
        ...

    def keep(self, sequence: KVSequence, tokens: Tokens, prompt_tokens: int) -> None:
        """Keep what was computed for later sequences that begin alike; memory that is needed otherwise is taken back.

        Args:
            sequence: Goes on as before.
            tokens: int64 [n], its tokens from the start.
            prompt_tokens: How many of them were its prompt.
        """
        ...

    def release(self, sequence: KVSequence) -> None:
        """Give back a sequence's memory; releasing twice is allowed."""
        ...

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        """Append tokens to sequences and return the logits after each sequence's last one: f32 [segments, vocab].

        A segment with `read` hands the logits after all of its tokens to it, too. `safe_point` is called before each
        layer and before each part of these; if it raises, no sequence has changed.
        """
        ...

    def resident_bytes(self) -> MemorySnapshot:
        """Bytes that the model holds."""
        ...
