"""A model that gives memory back while it answers: the backend that the rest of FlexQuant is about."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Self

import numpy as np
import numpy.typing as npt

from flexquant.engine.compute import Compute, ElasticDecoder, choose_compute
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import ContextLengthError, MemoryShortError
from flexquant.engine.kv_cache import KVCache, KVPage, KVSequence, KVType, note_positions
from flexquant.engine.memory.registry import MemoryRegistry, MemorySnapshot
from flexquant.engine.memory_needs import MemoryNeeds, plan_residency
from flexquant.engine.model_config import ModelConfig
from flexquant.engine.pace import Pace
from flexquant.engine.placement import HOST, Placement
from flexquant.engine.prefill import CHUNK_TOKENS
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.residency import Residency
from flexquant.engine.segment import Floats, Segment, Tokens, nothing
from flexquant.engine.store_reader import StoreReader
from flexquant.engine.swap import Swapper

log = logging.getLogger(__name__)


class ElasticModel:
    """Implements `Backend`. Made by `load`.

    One thread, the engine thread, computes: it alone calls `forward`, `safe_point`, `new_sequence`, `release`,
    `weights_of` and `close`. Moves are ordered, and everything else is read, from any thread. The weights change
    inside `safe_point` and nowhere else; `forward` calls it before every pass and, when a pass has more than one row
    of a sequence, before every layer.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        residency: Residency,
        registry: MemoryRegistry,
        reader: StoreReader,
        pace: Pace,
        swapper: Swapper,
        decoder: ElasticDecoder,
        cache: KVCache,
        context: int,
        independent_rows: bool,
    ) -> None:
        self.ensemble = ensemble
        self.context = context
        """Most tokens of one sequence."""
        self.max_position = residency.max_position
        """N, the smallest position."""
        self.footprints = [
            ensemble.manifest.fixed_bytes + residency.payload(position) for position in range(self.max_position + 1)
        ]
        """Bytes of resident weights at positions 0..N, as the manifest counts them."""
        self._registry = registry
        self._reader = reader
        self._pace = pace
        self._swapper = swapper
        self._cache = cache
        self._decoder = decoder
        self._independent_rows = independent_rows
        self._drop_reusable = threading.Event()

    @classmethod
    def load(
        cls,
        ensemble: Ensemble,
        *,
        kv_pages: int,
        kept_pages: int | None = None,
        position: int | None = None,
        sequence: str | None = None,
        context: int | None = None,
        kv_dtype: KVType = np.float16,
        compute: Compute | None = None,
        placement: Placement = HOST,
        drop_page_cache: bool = False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Self:
        """Allocate what one position needs and read it. `MemoryNeeds` says beforehand how much that is.

        Args:
            ensemble: Opened and checked.
            kv_pages: Most KV pages of all sequences together; they are mapped as sequences grow.
            kept_pages: Most of them that are kept for later sequences when none has them; all without.
            position: Where to start, 0 (best, also without this argument) to N.
            sequence: Which transition sequence to move along; the ensemble's default one without.
            context: Most tokens of one sequence; the model's own limit without.
            kv_dtype: float16 or float32.
            compute: Who computes; the fastest that this machine has without.
            placement: Where weights, keys and values lie; where `compute` looks for them.
            drop_page_cache: Drop files from the page cache as they are read.
            progress: Called with (bytes read, bytes in total).

        Raises:
            InputError: A store is damaged, or was changed since the ensemble was opened.
            MemoryShortError: The system has no room for that position.
            ValueError: `position` is outside 0..N.
        """
        compute = choose_compute() if compute is None else compute
        if ensemble.config.context_limit is not None:
            log.warning(
                "the context is limited to %d tokens: %s", ensemble.config.context, ensemble.config.context_limit
            )
        residency = plan_residency(ensemble, compute, sequence)
        needs = MemoryNeeds.of(ensemble, compute, sequence=sequence, kv_dtype=kv_dtype, context=context)
        registry = MemoryRegistry(fixed=needs.fixed, embedding=ensemble.manifest.embedding_bytes, scratch=needs.scratch)
        pace = Pace()
        reader = StoreReader(ensemble, compute.filler(ensemble, pace.rest), drop_page_cache=drop_page_cache)
        start = 0 if position is None else position
        try:
            swapper = Swapper(
                residency,
                reader.read,
                position=start,
                registry=registry,
                progress=progress,
                pace=pace,
                make_arenas=placement.arenas,
            )
        except MemoryError as error:
            raise MemoryShortError(
                f"no memory for position {start}: {error}",
                needed=needs.total(start, 0),
                available=placement.available(),
                hint="Close other programs, or start at a smaller position.",
            ) from error
        try:
            return cls(
                ensemble,
                residency=residency,
                registry=registry,
                reader=reader,
                pace=pace,
                swapper=swapper,
                decoder=compute.decoder(ensemble, residency, swapper),
                cache=placement.cache(ensemble.config, kv_pages, kv_dtype, kept=kept_pages),
                context=context or ensemble.config.context,
                independent_rows=compute.independent_rows,
            )
        except BaseException:
            swapper.close()
            raise

    # --- state, from any thread

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.ensemble.config

    @property
    def position(self) -> int:
        """The published position, 0 (best) to N (smallest)."""
        return self._swapper.position

    @property
    def target(self) -> int:
        """Where the position is going; equal to `position` when nothing moves."""
        return self._swapper.target

    @property
    def moving(self) -> bool:
        """Whether a move is under way."""
        return self.position != self.target

    @property
    def last_error(self) -> str | None:
        """Why the latest move failed; None after a move that succeeded."""
        return self._swapper.last_error

    @property
    def scratch_bytes(self) -> int:
        """Declared working memory: what a move down or a pass may take beyond weights and KV pages."""
        return sum(self._registry.snapshot().scratch.values())

    @property
    def promised_bytes(self) -> int:
        """KV pages that sequences have reserved and may still map, in bytes."""
        return self._cache.promised_bytes

    @property
    def reusable_bytes(self) -> int:
        """KV pages that no sequence has, in bytes: what `drop_reusable` gives back."""
        return self._cache.reusable_bytes

    def resident_bytes(self) -> MemorySnapshot:
        """See `Backend`. Exact at every moment, also during a move."""
        self._registry.set_kv(self._cache.bytes_in_use)
        return self._registry.snapshot()

    # --- moving

    def move_to(self, position: int, *, budget_s: float | None = None) -> Future[int]:
        """Order a move; see `Swapper.move_to`. Any thread."""
        return self._swapper.move_to(position, budget_s=budget_s)

    def drop_reusable(self) -> None:
        """Order that KV pages which no sequence has go at the next safe point. Any thread."""
        self._drop_reusable.set()
        self._swapper.on_ready()  # an idle engine thread comes to a safe point

    def safe_point(self) -> None:
        """Publish steps that are ready; see `Swapper.safe_point`. Engine thread only."""
        if self._drop_reusable.is_set():
            self._drop_reusable.clear()
            self._cache.drop_reusable()
        self._swapper.safe_point()

    @property
    def on_ready(self) -> Callable[[], None]:
        """Called, on another thread, when a step waits for a safe point: an idle engine thread should wake up."""
        return self._swapper.on_ready

    @on_ready.setter
    def on_ready(self, callback: Callable[[], None]) -> None:
        self._swapper.on_ready = callback

    @property
    def on_published(self) -> Callable[[int], None]:
        """Called on the engine thread with the new position after every step."""
        return self._swapper.on_published

    @on_published.setter
    def on_published(self, callback: Callable[[int], None]) -> None:
        self._swapper.on_published = callback

    @property
    def drop_page_cache(self) -> bool:
        """Whether files leave the page cache as they are read; worth it while memory is short."""
        return self._reader.drop_page_cache

    @drop_page_cache.setter
    def drop_page_cache(self, drop: bool) -> None:
        self._reader.drop_page_cache = drop

    def drop_file_cache(self) -> None:
        """Drop the ensemble's weights from the system's page cache; see `StoreReader.drop_files`. Any thread."""
        self._reader.drop_files()

    # --- computing, engine thread only

    def new_sequence(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> KVSequence:
        """See `Backend`.

        What is used again ends on the grid on which prompts are computed, unless rows are independent of each other:
        a prompt gives the same bits with and without it.

        Raises:
            ContextLengthError: `tokens` exceeds the context.
            KVExhaustedError: So many are not free.
        """
        if tokens > self.context:
            raise ContextLengthError(
                f"{tokens} tokens exceed the context of {self.context}", tokens=tokens, limit=self.context
            )
        return self._cache.sequence(tokens, self._beginning(prompt), usable=self._usable(exact=exact))

    def bytes_to_map(self, tokens: int, prompt: Tokens | None = None, *, exact: bool = False) -> int:
        """KV bytes that `new_sequence` with the same arguments would promise; nothing changes."""
        return self._cache.bytes_to_map(tokens, self._beginning(prompt), usable=self._usable(exact=exact))

    def keep(self, sequence: KVSequence, tokens: Tokens, prompt_tokens: int) -> None:
        """See `Backend`. Where rows depend on each other, what was computed token by token is not kept."""
        last = len(tokens) if self._independent_rows else prompt_tokens // CHUNK_TOKENS * CHUNK_TOKENS
        self._cache.keep(sequence, tokens[:last])

    def release(self, sequence: KVSequence) -> None:
        """See `Backend`."""
        self._cache.release(sequence)

    def forward(self, segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        """See `Backend`. All layers of a pass of single rows run at one position, unless `safe_point` moves it."""
        self.safe_point()
        best = worst = self.position

        def between_layers() -> None:
            nonlocal best, worst
            if prefill:
                self.safe_point()
            safe_point()
            best, worst = min(best, self.position), max(worst, self.position)

        starts = [segment.sequence.length for segment in segments]
        prefill = any(len(segment.tokens) > 1 for segment in segments)
        self._pace.computing = True
        try:
            logits = self._decoder.forward(segments, self._cache, between_layers)
        finally:
            self._pace.computing = False
        for segment, start in zip(segments, starts, strict=True):
            note_positions(segment.sequence, start, best, worst)
        return logits

    def weights_of(self, module: str) -> tuple[int, npt.NDArray[np.float16]]:
        """Variant of a module that is resident now, and its weights: fp16 [in_features, padded outputs], packed order.

        A copy, for verification.
        """
        return self._decoder.reconstruct(module)

    def _beginning(self, prompt: Tokens | None) -> npt.ArrayLike:
        """What of a prompt may be there already: never the last token, which gives the first logits."""
        grid = PAGE_TOKENS if self._independent_rows else CHUNK_TOKENS
        return () if prompt is None else prompt[: (len(prompt) - 1) // grid * grid]

    def _usable(self, *, exact: bool) -> Callable[[KVPage], bool]:
        here = (self.position, self.position)
        return lambda page: not exact or page.positions == here

    def close(self) -> None:
        """Stop the loader and give the weights back. Sequences that are alive keep their pages until released."""
        self._cache.drop_reusable()
        self._swapper.close()
