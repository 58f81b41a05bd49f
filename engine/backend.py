"""What runs a model, seen from whoever schedules and samples: the same for every kind of machine."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from flexquant.engine.decoder import Segment, nothing
from flexquant.engine.kv_cache import KVSequence
from flexquant.engine.memory.registry import MemorySnapshot
from flexquant.engine.model_config import ModelConfig


class Backend(Protocol):
    """Runs one model; sampling, scheduling and the policy for KV pages are not its concern. One thread uses it."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        ...

    def new_sequence(self, tokens: int) -> KVSequence:
        """Return an empty sequence that can grow to `tokens` tokens.

        Raises:
            KVExhaustedError: So many are not free.
        """
        ...

    def release(self, sequence: KVSequence) -> None:
        """Give back a sequence's memory; releasing twice is allowed."""
        ...

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Tensor:
        """Append tokens to sequences and return the logits after each sequence's last one: f32 [segments, vocab].

        `safe_point` is called before each layer; if it raises, no sequence has changed.
        """
        ...

    def resident_bytes(self) -> MemorySnapshot:
        """Bytes that the model holds."""
        ...
