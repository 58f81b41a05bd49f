"""The decoder of the Llama family on the native kernels: one call per layer, whatever rows a pass has.

A row's result does not depend on the rows beside it, bit for bit: decoding together, prefilling in chunks and doing
both in one pass give what each would give alone.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.blocked_layout import LANES
from flexquant.engine.kv_cache import KVCache, KVSequence, pages_for
from flexquant.engine.mapped_embedding import MappedEmbedding
from flexquant.engine.memory.arena import Arena
from flexquant.engine.model_config import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    ModelConfig,
    input_norm,
    key_norm,
    post_norm,
    query_norm,
)
from flexquant.engine.native import structs
from flexquant.engine.native.library import load
from flexquant.engine.native.linears import Linears, keys_of_layer
from flexquant.engine.places import Places
from flexquant.engine.residency import Residency
from flexquant.engine.rope import RopeTable
from flexquant.engine.segment import Floats, ReadRows, Segment, Tokens, extend, parts
from flexquant.engine.swap import Swapper

_NAMES: Final = ("q", "k", "v", "o", "gate", "up", "down")
"""Linear layers of a layer, in the order of `keys_of_layer`."""
_HALF_TILE: Final = 1


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a segment, run in one pass."""

    sequence: KVSequence
    tokens: Tokens
    start: int
    """Position of the first row."""
    ends: int | None
    """Index of the segment that this piece completes."""
    read: ReadRows | None = None
    """Of the segment."""


class NativeDecoder:
    """Implements `ElasticDecoder`. Engine thread only.

    Args:
        ensemble: Where the weights come from.
        residency: The plan that the swapper follows.
        swapper: Owns the arenas.
        max_rows: Most rows of one pass through the layers; longer segments take several.
        scratch: Working memory for that many rows.
    """

    def __init__(
        self, ensemble: Ensemble, residency: Residency, swapper: Swapper, *, max_rows: int, scratch: Arena
    ) -> None:
        self.config = ensemble.config
        self._library = load()
        self._places = Places(ensemble, residency, swapper)
        self._max_rows = max_rows
        self._scratch = scratch
        self._rope = RopeTable(self.config.rope, self.config.rotary_dim)
        self._embedding = MappedEmbedding(ensemble.common[EMBEDDING])
        self._norms = {name: ensemble.common.floats(name) for name in self.config.norms()}
        self._linears = Linears(ensemble, self._places)
        self._keys = [keys_of_layer(self.config, layer) for layer in range(self.config.layers)]
        self._arenas = [self._places.arenas(key for keys in layer for key in keys) for layer in self._keys]
        # With the number of published steps that they are good for.
        self._layers: list[tuple[int, structs.Layer]] = [(-1, structs.Layer()) for _ in range(self.config.layers)]
        self._known_head: tuple[int, structs.Linear] = (-1, structs.Linear())

    def forward(self, segments: Sequence[Segment], cache: KVCache, safe_point: Callable[[], None]) -> Floats:
        """See `Decoder.forward`."""
        ends = extend(segments, cache)
        last = np.empty((len(segments), self.config.hidden_size), np.float32)
        shape = shape_of(self.config, half=cache.dtype is np.float16)
        for passing in _passes(segments, self._max_rows):
            hidden = self._run(passing, shape, safe_point)
            row = 0
            for piece in passing:
                rows = hidden[row : row + len(piece.tokens)]
                row += len(rows)
                if piece.read is not None:
                    for part in parts(len(rows)):
                        safe_point()
                        piece.read(piece.start + part.start, self._head(rows[part], shape))
                if piece.ends is not None:
                    last[piece.ends] = rows[-1]
        logits = self._head(last, shape)
        for segment, end in zip(segments, ends, strict=True):
            segment.sequence.length = end
        return logits

    def reconstruct(self, module: str) -> tuple[int, npt.NDArray[np.float16]]:
        """See `ElasticDecoder`."""
        variant, matrices, layout = self._linears.addends(module)
        columns = layout.blocks * LANES
        total = None
        for matrix in matrices:
            weights = np.empty((layout.spec.in_features, columns), np.float16)
            self._library.fq_dequantize(
                ctypes.byref(matrix), 0, layout.blocks, _HALF_TILE, weights.ctypes.data, columns
            )
            total = weights if total is None else (total.astype(np.float32) + weights).astype(np.float16)
        assert total is not None, "a module is somewhere"
        return variant, np.ascontiguousarray(total[:, : layout.spec.padded_out])

    def _run(self, pieces: Sequence[_Piece], shape: structs.Shape, safe_point: Callable[[], None]) -> Floats:
        """Run all layers over the pieces; returns hidden states f32 [rows, hidden]."""
        hidden = self._embedding.rows(np.concatenate([piece.tokens for piece in pieces]))
        positions = np.concatenate([np.arange(piece.start, piece.start + len(piece.tokens)) for piece in pieces])
        rotation = self._rope.rotation(positions)
        cos, sin = rotation.cos, rotation.signed_sin
        segments = (structs.Segment * len(pieces))()
        tables, row = [], 0
        for segment, piece in zip(segments, pieces, strict=True):
            rows = len(piece.tokens)
            pages = piece.sequence.pages[: pages_for(piece.start + rows)]
            tables.append((ctypes.c_uint64 * len(pages))(*[page.memory.address for page in pages]))
            segment.first_row, segment.rows, segment.start = row, rows, piece.start
            segment.pages = ctypes.addressof(tables[-1])
            row += rows
        call, scratch = self._library.fq_layer, self._scratch.address
        for i in range(self.config.layers):
            safe_point()
            call(
                ctypes.byref(shape),
                ctypes.byref(self._layer(i)),
                segments,
                len(pieces),
                row,
                hidden.ctypes.data,
                cos.ctypes.data,
                sin.ctypes.data,
                scratch,
            )
        return hidden

    def _head(self, hidden: Floats, shape: structs.Shape) -> Floats:
        """Logits of rows of hidden states: f32 [rows, vocab]."""
        published = self._places.published
        if self._known_head[0] != published:
            self._known_head = published, self._linears.together((HEAD,))[0]
        logits = np.empty((len(hidden), self.config.vocab_size), np.float32)
        for first in range(0, len(hidden), self._max_rows):
            rows = hidden[first : first + self._max_rows]
            self._library.fq_head(
                ctypes.byref(shape),
                ctypes.byref(self._known_head[1]),
                self._norms[FINAL_NORM].ctypes.data,
                len(rows),
                rows.ctypes.data,
                logits[first:].ctypes.data,
                self._scratch.address,
            )
        return logits

    def _layer(self, i: int) -> structs.Layer:
        """The layer with the addresses of this moment."""
        published = self._places.published
        known, layer = self._layers[i]
        if known == published:
            return layer
        if known >= 0 and not self._places.moved(self._arenas[i], known):
            self._layers[i] = published, layer
            return layer
        linears = [linear for keys in self._keys[i] for linear in self._linears.together(keys)]
        for name, linear in zip(_NAMES, linears, strict=True):
            setattr(layer, name, linear)
        layer.input_norm = self._norms[input_norm(i)].ctypes.data
        layer.post_norm = self._norms[post_norm(i)].ctypes.data
        if self.config.head_norms:
            layer.query_norm = self._norms[query_norm(i)].ctypes.data
            layer.key_norm = self._norms[key_norm(i)].ctypes.data
        layer.index = i
        self._layers[i] = published, layer
        return layer


def shape_of(config: ModelConfig, *, half: bool = True) -> structs.Shape:
    """Sizes of a model as the kernels read them; `half`: KV pages hold float16."""
    return structs.Shape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        kv_is_half=half,
        norm_eps=config.norm_eps,
        rotary_dim=config.rotary_dim,
    )


def _passes(segments: Sequence[Segment], max_rows: int) -> Iterator[list[_Piece]]:
    """Cut the segments into passes of at most `max_rows` rows."""
    passing: list[_Piece] = []
    room = max_rows
    for index, segment in enumerate(segments):
        done, rows = 0, len(segment.tokens)
        while done < rows:
            count = min(room, rows - done)
            ends = index if done + count == rows else None
            start = segment.sequence.length + done
            passing.append(_Piece(segment.sequence, segment.tokens[done : done + count], start, ends, segment.read))
            done, room = done + count, room - count
            if room == 0:
                yield passing
                passing, room = [], max_rows
    if passing:
        yield passing
