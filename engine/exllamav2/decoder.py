"""Runs an ensemble on the card: block after block of exllamav2's, with safe points between the layers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exllamav2.arenas import CardArenas
from flexquant.engine.exllamav2.cache import CardCache
from flexquant.engine.exllamav2.card import Kernels, Span
from flexquant.engine.exllamav2.handles import Handles
from flexquant.engine.kv_cache import KVCache
from flexquant.engine.mapped_embedding import MappedEmbedding
from flexquant.engine.model_config import EMBEDDING
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.segment import Floats, ReadRows, Segment, Tokens, extend, parts

MOST_LOGITS: Final = 32
"""Rows that the head takes at once: with more, exllamav2 would write the weights out in half precision first."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a segment that go through the layers together."""

    segment: int
    tokens: Tokens
    span: Span
    last: bool
    """Whether its last row is the segment's."""
    read: ReadRows | None
    """Of the segment."""


class CardDecoder:
    """Implements `ElasticDecoder`.

    Prompts go in one after the other; single tokens of several sequences share their matrix products, and only their
    attention is computed one after the other.

    Args:
        ensemble: Whose model.
        kernels: Compute.
        handles: What they compute with, current at every safe point.
        arenas: Where the weights are.
        max_rows: Most rows of a pass.
    """

    def __init__(
        self, ensemble: Ensemble, kernels: Kernels, handles: Handles, arenas: CardArenas, *, max_rows: int
    ) -> None:
        self.config = ensemble.config
        self._ensemble = ensemble
        self._kernels = kernels
        self._handles = handles
        self._arenas = arenas
        self._max_rows = max_rows
        self._embedding = MappedEmbedding(ensemble.common[EMBEDDING])

    def forward(self, segments: Sequence[Segment], cache: KVCache, safe_point: Callable[[], None]) -> Floats:
        """See `Decoder.forward`."""
        assert isinstance(cache, CardCache), "a model on the card has its cache there"
        ends = extend(segments, cache)
        logits = np.empty((len(segments), self.config.vocab_size), np.float32)
        for pieces in self._passes(segments, cache):
            rows = np.cumsum([len(piece.tokens) for piece in pieces]) - 1
            wanted = [number for number, piece in enumerate(pieces) if piece.last]
            found = self._run(pieces, [int(rows[number]) for number in wanted], safe_point)
            for number, row in zip(wanted, found, strict=True):
                logits[pieces[number].segment] = row
        for segment, end in zip(segments, ends, strict=True):
            segment.sequence.length = end
        return logits

    def reconstruct(self, module: str) -> tuple[int, npt.NDArray[np.float16]]:
        """See `ElasticDecoder`."""
        variant = next(
            place.variant
            for bundle in range(self._arenas.bundles)
            for place in self._arenas.resident(bundle)[0].placed
            if place.module == module
        )
        spec = self._ensemble.specs[module][variant]
        inverse = self._inverse_order(module, variant)
        return variant, self._kernels.reconstruct(self._handles.matrix(spec.key))[np.argsort(inverse)]

    def _inverse_order(self, module: str, variant: int) -> npt.NDArray[np.int32]:
        entry = self._ensemble.specs[module][variant].entries["q_invperm"]
        with entry.file.open("rb") as stream:
            stream.seek(entry.offset)
            return np.frombuffer(stream.read(entry.nbytes), np.int32)

    def _run(self, pieces: Sequence[_Piece], rows: Sequence[int], safe_point: Callable[[], None]) -> Floats:
        """All layers over the pieces, then the logits of `rows`."""
        embedded = self._embedding.rows(np.concatenate([piece.tokens for piece in pieces]))
        passing = self._kernels.enter(embedded, [piece.span for piece in pieces])
        for layer in range(self.config.layers):
            safe_point()
            self._kernels.attend(self._handles.attention(layer), layer, passing)
            self._kernels.mlp(self._handles.mlp(layer), passing)

        def logits(rows: Sequence[int]) -> Floats:
            return self._kernels.logits(self._handles.head, passing, rows)[:, : self.config.vocab_size]

        row = 0
        for piece in pieces:
            if piece.read is not None:
                for part in parts(piece.span.rows):
                    safe_point()
                    piece.read(piece.span.past + part.start, logits(range(row + part.start, row + part.stop)))
            row += piece.span.rows
        return logits(rows) if rows else np.empty((0, self.config.vocab_size), np.float32)

    def _passes(self, segments: Sequence[Segment], cache: CardCache) -> Iterator[list[_Piece]]:
        """Single tokens together, then every prompt by itself, in passes of at most `max_rows` rows."""
        single = [number for number, segment in enumerate(segments) if len(segment.tokens) == 1]
        most = min(self._max_rows, MOST_LOGITS)
        for first in range(0, len(single), most):
            yield [self._piece(number, segments[number], cache, 0, 1) for number in single[first : first + most]]
        for number, segment in enumerate(segments):
            if len(segment.tokens) > 1:
                for done in range(0, len(segment.tokens), self._max_rows):
                    count = min(self._max_rows, len(segment.tokens) - done)
                    yield [self._piece(number, segment, cache, done, count)]

    def _piece(self, number: int, segment: Segment, cache: CardCache, done: int, count: int) -> _Piece:
        region = cache.region(segment.sequence)
        span = Span(region.memory, region.pages * PAGE_TOKENS, segment.sequence.length + done, count)
        return _Piece(
            number, segment.tokens[done : done + count], span, done + count == len(segment.tokens), segment.read
        )
