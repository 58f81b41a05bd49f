"""The served model as the controller sees it: `ElasticModel` and the engine thread in the shape of `Elastic`."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Protocol

from flexquant.engine.memory.heap import trim_heap
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory.registry import MemorySnapshot
from flexquant.server.counts import Counts
from flexquant.server.elastic_state import MemoryState, ModelMemory, Quality
from flexquant.server.logging_setup import Fields

log = logging.getLogger(__name__)

SHRINK_SHARE: Final = 0.25
SHRINK_SECONDS: Final = 0.030
"""A shrink that is not urgent may hold up each token by this share of its time, and by no more than so many seconds."""


class Resizable(Protocol):
    """What is needed of ElasticModel."""

    drop_page_cache: bool
    on_published: Callable[[int], None]

    @property
    def footprints(self) -> Sequence[int]: ...
    @property
    def position(self) -> int: ...
    @property
    def target(self) -> int: ...
    @property
    def moving(self) -> bool: ...
    @property
    def promised_bytes(self) -> int: ...
    @property
    def reusable_bytes(self) -> int: ...
    def resident_bytes(self) -> MemorySnapshot: ...
    def move_to(self, position: int, *, budget_s: float | None = None) -> Future[int]: ...
    def drop_reusable(self) -> None: ...
    def drop_file_cache(self) -> None: ...


class ElasticFacade:
    """Implements `Elastic`; every member may be used from any thread.

    Args:
        model: The model.
        quality: At positions 0..N.
        seconds_per_token: Recent time per token, None while it is not known.
        clock: Steady seconds.
        counts: Told of moves; the model's `on_published` is set for that.
    """

    def __init__(
        self,
        model: Resizable,
        quality: Sequence[Quality],
        seconds_per_token: Callable[[], float | None],
        clock: Callable[[], float] = time.perf_counter,
        *,
        counts: Counts | None = None,
    ) -> None:
        self._model = model
        self._quality = tuple(quality)
        self._seconds_per_token = seconds_per_token
        self._clock = clock
        self._counts = Counts() if counts is None else counts
        self._published = model.position  # the engine thread's own
        model.on_published = self._count_step
        self._trimming: threading.Thread | None = None

    @property
    def footprints(self) -> Sequence[int]:
        """Bytes of resident weights at positions 0..N."""
        return self._model.footprints

    @property
    def quality(self) -> Sequence[Quality]:
        """Quality at positions 0..N."""
        return self._quality

    @property
    def position(self) -> int:
        """Position that is published now."""
        return self._model.position

    @property
    def target(self) -> int:
        """Position that was ordered last."""
        return self._model.target

    @property
    def moving(self) -> bool:
        """Whether steps are still under way."""
        return self._model.moving

    @property
    def memory(self) -> ModelMemory:
        """What the model holds now; arenas that are being filled count as elastic."""
        promised = self._model.promised_bytes  # first: a page that is mapped meanwhile counts twice, never not at all
        snapshot = self._model.resident_bytes()
        return ModelMemory(
            elastic=snapshot.mapped + snapshot.loading,
            kv=snapshot.kv,
            kv_promised=promised,
            reusable=self._model.reusable_bytes,
        )

    def memory_state(self) -> MemoryState:
        """All of the daemon's memory, for people. Microseconds on Linux, milliseconds elsewhere."""
        memory, snapshot = self.memory, self._model.resident_bytes()
        return MemoryState(
            elastic=memory.elastic,
            kv=memory.kv,
            kv_promised=memory.kv_promised,
            reusable=memory.reusable,
            scratch=sum(snapshot.scratch.values()),
            fixed=snapshot.fixed,
            embedding=snapshot.embedding,
            registry=snapshot.total,
            private=anonymous_bytes(),
        )

    def drop_reusable(self) -> None:
        """Order that KV pages which no sequence has go at the next safe point."""
        self._model.drop_reusable()

    def trim(self) -> None:
        """Give back what the heap holds, and the ensemble's weights in the system's file cache.

        On a thread of its own, for large files take a second; while one is at it nothing more is ordered.
        """
        if self._trimming is None or not self._trimming.is_alive():
            self._trimming = threading.Thread(target=self._trim, name="trim", daemon=True)
            self._trimming.start()

    def _trim(self) -> None:
        trim_heap()
        self._model.drop_file_cache()

    def request_position(self, position: int, *, urgent: bool) -> Future[int]:
        """Order a move; a later order supersedes it. Each move is one log line when it ends.

        Args:
            position: Where to go.
            urgent: Memory is short: let decoding wait for the move instead of sharing its time, and leave no file
                pages behind in the system's cache.
        """
        self._model.drop_page_cache = urgent
        began, start = self._clock(), self._model.position
        before = self._model.resident_bytes().mapped
        moved = self._model.move_to(position, budget_s=None if urgent else self._budget(shrink=position > start))

        def tell(done: Future[int]) -> None:
            if done.cancelled() or done.exception() is not None:
                self._counts.move_failed()
                return  # the controller reports it
            snapshot, seconds = self._model.resident_bytes(), self._clock() - began
            self._counts.moved(start, done.result(), seconds)
            log.info(
                "move %s",
                Fields(
                    position_start=start,
                    position_end=done.result(),
                    mapped_bytes=snapshot.mapped,
                    freed_bytes=before - snapshot.mapped,
                    seconds=seconds,
                ),
            )

        moved.add_done_callback(tell)
        return moved

    def _count_step(self, position: int) -> None:
        footprints = self._model.footprints
        self._counts.stepped(footprints[self._published], footprints[position])
        self._published = position

    def _budget(self, *, shrink: bool) -> float:
        """Seconds that each token may wait for further steps; for more quality none ever waits."""
        if not shrink:
            return 0.0
        token = self._seconds_per_token()
        return SHRINK_SECONDS if token is None else min(SHRINK_SHARE * token, SHRINK_SECONDS)
