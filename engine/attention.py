"""Attention over whole windows (builder) and over paged sequences (serving)."""

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flexquant.engine.kv_cache import KVCache, KVSequence, pages_for
from flexquant.engine.prefix_cache import PAGE_TOKENS


class Attend(Protocol):
    """What a decoder layer needs: attention of its rows to the tokens before them, and to themselves."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            layer: Index of the layer.
            q: Queries, turned by their positions: f32 [rows, heads, head_dim].
            k: Keys, turned by their positions: f32 [rows, kv_heads, head_dim].
            v: Values: f32 [rows, kv_heads, head_dim].

        Returns:
            f32 [rows, heads * head_dim].
        """
        ...


class CausalAttention:
    """The rows are whole windows, one after another; a row sees its own window up to itself. Nothing is kept.

    Args:
        window: Rows per window.
    """

    def __init__(self, window: int) -> None:
        self._window = window

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002  # same for all layers
        """See `Attend`; rows is a multiple of the window."""
        windows = (rows.reshape(-1, self._window, *rows.shape[1:]).transpose(1, 2) for rows in (q, k, v))
        return torch.cat([_attention(*window, causal=True) for window in zip(*windows, strict=True)])


class PagedAttention:
    """Rows of several sequences, appended to each sequence's pages, which hold what they attend to.

    Each sequence is computed by itself, so a row does not depend on which others share the pass. Nothing of a
    sequence but page contents beyond its length is changed. A context manager: views of the pages die at its end, so
    that the pages can be given back even while an exception is on its way.

    Args:
        cache: Holds the pages.
        spans: Each sequence with its number of new rows, in the order of the rows; its pages reach that far.
    """

    def __init__(self, cache: KVCache, spans: Sequence[tuple[KVSequence, int]]) -> None:
        # One layer of the longest sequence, in float32; one after the other, all sequences and layers use it.
        longest = max(sequence.length + rows for sequence, rows in spans)
        scratch = torch.empty(2 * cache.config.kv_heads * longest * cache.config.head_dim)
        self._spans = [_Span(cache, sequence, rows, scratch) for sequence, rows in spans]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for span in self._spans:
            span.pages.clear()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`; rows is the sum of the spans' rows."""
        if len(self._spans) == 1:
            return self._spans[0].attend(layer, q, k, v)
        sizes = [span.rows for span in self._spans]
        rows = zip(self._spans, *(torch.split(x, sizes) for x in (q, k, v)), strict=True)
        return torch.cat([span.attend(layer, *of_span) for span, *of_span in rows])


class _Span:
    """New rows of one sequence."""

    def __init__(self, cache: KVCache, sequence: KVSequence, rows: int, scratch: Tensor) -> None:
        self.rows = rows
        self._start = sequence.length
        self._end = self._start + rows
        shape = (2, cache.config.kv_heads, self._end, cache.config.head_dim)
        self._past = scratch[: math.prod(shape)].view(shape)
        # Row r is at position start + r and sees the positions up to its own.
        self._mask = None if rows == 1 or self._start == 0 else _causal_mask(rows, self._start)
        # Keys and values of each page: [layers, kv_heads, PAGE_TOKENS, head_dim].
        self.pages = [tuple(map(torch.from_numpy, cache.view(page))) for page in sequence.pages[: pages_for(self._end)]]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._append(layer, torch.stack((k, v)).transpose(1, 2))
        self._gather(layer)
        causal = self._start == 0 and self.rows > 1
        return _attention(q.transpose(0, 1), self._past[0], self._past[1], mask=self._mask, causal=causal)

    def _append(self, layer: int, new: Tensor) -> None:
        """Write keys and values [2, kv_heads, rows, head_dim] into the pages."""
        at = self._start
        while at < self._end:
            page, offset = divmod(at, PAGE_TOKENS)
            stop = min(self._end, (page + 1) * PAGE_TOKENS)
            first, end = at - self._start, stop - self._start
            for of_page, rows in zip(self.pages[page], new, strict=True):
                of_page[layer, :, offset : offset + end - first] = rows[:, first:end]
            at = stop

    def _gather(self, layer: int) -> None:
        """Copy keys and values of all tokens from the pages into one piece."""
        for page, at in enumerate(range(0, self._end, PAGE_TOKENS)):
            stop = min(self._end, at + PAGE_TOKENS)
            for past, of_page in zip(self._past, self.pages[page], strict=True):
                past[:, at:stop] = of_page[layer, :, : stop - at]


def _causal_mask(rows: int, start: int) -> Tensor:
    """Return bool [rows, start + rows]: what each row sees."""
    return torch.ones(rows, start + rows, dtype=torch.bool).tril(start)


def _attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool) -> Tensor:
    """Attention of one sequence.

    Args:
        q: f32 [heads, rows, head_dim].
        k: f32 [kv_heads, keys, head_dim]; serves heads / kv_heads consecutive query heads each.
        v: Like k.
        mask: bool [rows, keys], or None: all keys are seen, or as `causal` says.
        causal: Row r sees the keys up to r.

    Returns:
        f32 [rows, heads * head_dim].
    """
    if q.shape[1] == 1:
        # The heads that share keys become the rows of one product.
        return F.scaled_dot_product_attention(q.reshape(1, len(k), -1, q.shape[2]), k[None], v[None]).reshape(1, -1)
    shared = len(q) // len(k)
    # Keys and values are repeated by a stride of zero: no copies.
    k, v = (x[:, None].expand(-1, shared, -1, -1) for x in (k, v))
    attended = F.scaled_dot_product_attention(
        q.reshape(len(k), shared, *q.shape[1:]), k, v, attn_mask=mask, is_causal=causal
    )
    return attended.flatten(0, 1).transpose(0, 1).flatten(1)
