"""A backend over weights that never move: one whole checkpoint, in float32."""

from collections.abc import Callable, Sequence

import numpy as np

from flexquant.engine.decoder import Decoder
from flexquant.engine.kv_cache import KVCache, KVSequence, KVType
from flexquant.engine.memory.registry import MemorySnapshot
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.segment import Floats, Segment, Tokens, nothing
from flexquant.engine.weights import DenseWeights


class DenseBackend:
    """Runs an unquantized checkpoint or an EXL2 store.

    Args:
        config: The model's shape.
        weights: The checkpoint's.
        kv_pages: Most pages of the KV cache.
        kv_dtype: float16 or float32.
    """

    def __init__(
        self, config: ModelConfig, weights: DenseWeights, *, kv_pages: int, kv_dtype: KVType = np.float16
    ) -> None:
        self.cache = KVCache(config, kv_pages, kv_dtype)
        self._weights = weights
        self._decoder = Decoder(config, weights)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._decoder.config

    def new_sequence(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> KVSequence:  # noqa: ARG002
        """See `Backend`; nothing is used again."""
        return self.cache.sequence(tokens)

    def keep(self, sequence: KVSequence, tokens: Tokens, prompt_tokens: int) -> None:
        """See `Backend`; nothing is kept."""

    def release(self, sequence: KVSequence) -> None:
        """See `Backend`."""
        self.cache.release(sequence)

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        """See `Backend`."""
        return self._decoder.forward(segments, self.cache, safe_point)

    def resident_bytes(self) -> MemorySnapshot:
        """See `Backend`. All weights count as fixed."""
        return MemorySnapshot(
            modules={},
            loading=0,
            kv=self.cache.bytes_in_use,
            scratch={},
            fixed=self._weights.kept_bytes,
            embedding=self._weights.mapped_bytes,
        )
