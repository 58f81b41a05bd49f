"""Runs the control law: every tick sample, decide, order; takes the user's wishes; shows the state."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Final, Literal

from flexquant.engine.errors import UsageError
from flexquant.server.controller.law import Law
from flexquant.server.controller.outlook import largest_step
from flexquant.server.controller.parameters import Parameters, Reserves
from flexquant.server.controller.sample import MemoryReading, Sample
from flexquant.server.controller.state import Decision, Pin, State, WorstPosition
from flexquant.server.elastic_state import DecisionState, Elastic, ElasticState, SourceState
from flexquant.server.monitor import Monitor, Readings

logger: Final = logging.getLogger(__name__)

READ_ATTEMPTS: Final = 3


class Controller:
    """Keeps a model at the position that memory and the user ask for.

    All methods may be called from any thread; the coroutines wait without blocking the event loop.

    Args:
        elastic: The model.
        monitor: Its memory sources.
        parameters: Numbers of the law.
        clock: Steady seconds for the law.
        wall_clock: Seconds since 1970, for what people read.
        pin: Position to hold from the start.
        worst_position: Limit from the start.

    Raises:
        UsageError: `pin` or `worst_position` is outside the model's positions, or they contradict each other.
    """

    def __init__(
        self,
        elastic: Elastic,
        monitor: Monitor,
        parameters: Parameters,
        clock: Callable[[], float] = time.monotonic,
        *,
        wall_clock: Callable[[], float] = time.time,
        pin: int | None = None,
        worst_position: int | None = None,
    ) -> None:
        self._elastic = elastic
        self._monitor = monitor
        self._parameters = parameters
        self._clock = clock
        self._wall_clock = wall_clock
        self._law = Law(parameters, tuple(elastic.footprints))
        self._lock = threading.RLock()
        self._memory_state = State()
        self._readings = Readings((), {})
        self._last_decision: DecisionState | None = None
        self._move: Future[int] | None = None
        self._move_failed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        if worst_position is not None:
            self._set_worst(worst_position, None)
        if pin is not None:
            self._set_pin(pin, None)

    def start(self) -> None:
        """Begin to control, on a thread of its own."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End control; a move that is under way goes on."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def tick(self) -> None:
        """Sample, decide and order once."""
        with self._lock:
            sample = self._sample()
            before = self._memory_state.last_decision
            self._memory_state, moves = self._law.decide(self._memory_state, sample, self._clock())
            decision = self._memory_state.last_decision
            if decision is not None and decision is not before:
                self._tell(decision)
            for move in moves:
                self._move = self._elastic.request_position(move.position, urgent=move.urgent)
                self._move.add_done_callback(self._moved)

    @property
    def pinned(self) -> bool:
        """Whether the user holds a position now."""
        with self._lock:
            now = self._clock()
            return self._law.pinned(self._memory_state.without_expired(now), now) is not None

    def state(self) -> ElasticState:
        """What `GET /v1/elastic` answers, by the last tick's memory readings."""
        with self._lock:
            elastic, law, now = self._elastic, self._law, self._clock()
            kept = self._memory_state.without_expired(now)
            pinned = law.pinned(kept, now)
            position = elastic.position
            tightest = self._tightest()
            return ElasticState(
                position=position,
                max_position=len(law.footprints) - 1,
                target=elastic.target,
                footprint_bytes=law.footprints[position],
                footprint_range_bytes=(law.footprints[-1], law.footprints[0]),
                mode="auto" if pinned is None else "pinned",
                pinned_position=pinned,
                worst_position=law.worst(kept),
                ttl_seconds=None
                if pinned is None or kept.pin is None or kept.pin.until is None
                else kept.pin.until - now,
                override="critical" if pinned is not None and kept.override else None,
                available_bytes=None if tightest is None else tightest.available,
                pressure=self._pressure(),
                phase=kept.phase,
                quality=elastic.quality[position],
                last_decision=self._last_decision,
                sources=tuple(self._sources()),
            )

    async def pin_position(self, position: int, ttl_seconds: float | None = None) -> ElasticState:
        """Hold `position`, for `ttl_seconds` if given; the answer comes when the move was carried out.

        Critical memory overrides a pin; the answer says so then.

        Raises:
            UsageError: The position is out of range or beyond the worst position, or the time is not positive.
            SwapError: The model could not get there.
        """
        return await self._carry_out(lambda: self._set_pin(position, ttl_seconds))

    async def pin_bytes(self, limit: int, ttl_seconds: float | None = None) -> ElasticState:
        """Hold the best position whose weights take at most `limit` bytes.

        Raises:
            UsageError: Even the smallest position takes more; as for `pin_position`.
            SwapError: The model could not get there.
        """
        footprints = self._law.footprints
        best = next((k for k, footprint in enumerate(footprints) if footprint <= limit), None)
        if best is None:
            raise UsageError(
                f"bytes {limit}: no position is that small; footprints range from {footprints[-1]} to {footprints[0]}"
            )
        return await self.pin_position(best, ttl_seconds)

    async def auto(self, ttl_seconds: float | None = None) -> ElasticState:
        """Follow the memory again; with `ttl_seconds` the pin returns after that time.

        Raises:
            UsageError: The time is not positive.
        """
        return await self._carry_out(lambda: self._set_auto(ttl_seconds))

    async def set_worst(self, position: int, ttl_seconds: float | None = None) -> ElasticState:
        """Never go beyond `position`; N takes the limit away.

        Raises:
            UsageError: The position is out of range, or the time is not positive.
            SwapError: The model could not come back within the limit.
        """
        return await self._carry_out(lambda: self._set_worst(position, ttl_seconds))

    # The user's wishes -----------------------------------------------------------------------------------------

    def _set_pin(self, position: int, ttl_seconds: float | None) -> None:
        self._check_position("position", position)
        now = self._clock()
        worst = self._law.worst(self._memory_state.without_expired(now))
        if position > worst:
            raise UsageError(f"position {position} is beyond worst_position {worst}")
        pin = Pin(position, since=now, until=self._end(ttl_seconds, now))
        self._memory_state = replace(self._memory_state, pin=pin, override=False, failed_at=None)

    def _set_auto(self, ttl_seconds: float | None) -> None:
        now = self._clock()
        pin, until = self._memory_state.pin, self._end(ttl_seconds, now)
        pin = None if pin is None or until is None else replace(pin, since=until)
        self._memory_state = replace(self._memory_state, pin=pin, override=False)

    def _set_worst(self, position: int, ttl_seconds: float | None) -> None:
        self._check_position("worst_position", position)
        worst = WorstPosition(position, self._end(ttl_seconds, self._clock()))
        self._memory_state = replace(self._memory_state, worst=worst, failed_at=None)

    def _check_position(self, field: str, position: int) -> None:
        last = len(self._law.footprints) - 1
        if not 0 <= position <= last:
            raise UsageError(f"{field} {position} is out of range; this model has positions 0 to {last}")

    @staticmethod
    def _end(ttl_seconds: float | None, now: float) -> float | None:
        if ttl_seconds is None:
            return None
        if not 0 < ttl_seconds < float("inf"):
            raise UsageError(f"ttl_seconds {ttl_seconds:g}: must be a positive number of seconds")
        return now + ttl_seconds

    async def _carry_out(self, wish: Callable[[], None]) -> ElasticState:
        """Note a wish, act on it at once, and wait until nothing is under way."""
        move = await asyncio.to_thread(self._act_on, wish)
        while move is not None:
            moved = asyncio.wrap_future(move)
            await asyncio.wait([moved])  # unlike awaiting the future, a client that goes away does not cancel the move
            if not moved.cancelled():
                moved.result()
            with self._lock:
                move = None if self._move is move else self._move  # a later order has superseded it
        return self.state()

    def _act_on(self, wish: Callable[[], None]) -> Future[int] | None:
        with self._lock:
            wish()
            before = self._move
            self.tick()
            under_way = self._move is not before or self._elastic.target != self._elastic.position
            return self._move if under_way else None

    # Every tick ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(self._parameters.tick_s):
            try:
                self.tick()
            except Exception:  # the model must not be left without control
                logger.exception("control tick failed")

    def _sample(self) -> Sample:
        """Read memory and model so that they belong together: a step published in between spoils A + W."""
        for _ in range(READ_ATTEMPTS):
            model = self._look()
            self._readings = self._monitor.read()
            if model == self._look():
                break
        position, target, moving, elastic_bytes = model
        failed = self._move_failed.is_set()
        self._move_failed.clear()
        return Sample(
            memory=self._readings.memory,
            failed=tuple(self._readings.failures),
            position=position,
            target=target,
            moving=moving,
            elastic_bytes=elastic_bytes,
            move_failed=failed,
        )

    def _look(self) -> tuple[int, int, bool, int]:
        elastic = self._elastic
        return elastic.position, elastic.target, elastic.moving, elastic.memory.elastic

    def _moved(self, move: Future[int]) -> None:
        if move.cancelled():
            return
        error = move.exception()
        if error is not None:
            self._move_failed.set()
            logger.error("move failed, position %d stays: %s", self._elastic.position, error)

    def _tell(self, decision: Decision) -> None:
        self._last_decision = DecisionState(
            what=decision.what,
            why=decision.why,
            when=self._wall_clock(),
            from_position=decision.from_position,
            to_position=decision.to_position,
        )
        level = logging.WARNING if decision.what in ("critical", "blind") else logging.INFO
        logger.log(
            level,
            "%s: position %d to %d (%s)",
            decision.what,
            decision.from_position,
            decision.to_position,
            decision.why,
        )

    # What people see -------------------------------------------------------------------------------------------

    def _margin(self, reading: MemoryReading) -> int:
        """Bytes above the reserve that starts a shrink: the least of these is the tightest source."""
        return reading.available - self._reserves(reading).low

    def _tightest(self) -> MemoryReading | None:
        return min(self._readings.memory, key=self._margin, default=None)

    def _reserves(self, reading: MemoryReading) -> Reserves:
        step = largest_step(self._law.footprints)
        return self._parameters.reserves(reading.total, shared=reading.shared, largest_step=step)

    def _pressure(self) -> Literal["none", "low", "critical", "unknown"]:
        readings = [(reading.available, self._reserves(reading)) for reading in self._readings.memory]
        if not readings:
            return "unknown"
        if any(available < reserves.critical for available, reserves in readings):
            return "critical"
        return "low" if any(available < reserves.low for available, reserves in readings) else "none"

    def _sources(self) -> list[SourceState]:
        memory = {reading.source: reading for reading in self._readings.memory}
        sources = []
        for name in self._monitor.names:
            reading = memory.get(name)
            sources.append(
                SourceState(
                    name=name,
                    available_bytes=None if reading is None else reading.available,
                    total_bytes=None if reading is None else reading.total,
                    error=self._readings.failures.get(name),
                )
            )
        return sources
