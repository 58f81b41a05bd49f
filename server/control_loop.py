"""Runs the control law: at every tick sample, decide, order; takes the user's wishes; shows the state."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from typing import Final

from flexquant.engine.memory.process import anonymous_bytes
from flexquant.server.controller import wishes
from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import Parameters
from flexquant.server.controller.ring import Ring
from flexquant.server.controller.sample import DropReusable, Move, Order, Sample
from flexquant.server.controller.state import Decision, State
from flexquant.server.controller.trace import DumpHeader
from flexquant.server.elastic_events import ElasticEvents
from flexquant.server.elastic_state import (
    DecisionState,
    Elastic,
    ElasticState,
    ModelMemory,
    PositionState,
    SequenceState,
)
from flexquant.server.event_stream import EventStream
from flexquant.server.memory_gate import MemoryGate
from flexquant.server.memory_report import MemoryReport
from flexquant.server.monitor import Monitor, Readings

logger: Final = logging.getLogger(__name__)

READ_ATTEMPTS: Final = 3
LOUD: Final = ("critical", "floor", "retained", "blind")
"""Decisions that are warnings."""
REFUSAL: Final = (
    "Memory is critical, and the model is as small as it may be ({why}). Try again when other programs have given some "
    "back."
)


class Controller:
    """Keeps a model at the position that memory and the user ask for.

    All methods may be called from any thread; the coroutines wait without blocking the event loop.

    Args:
        elastic: The model.
        monitor: Its memory sources.
        parameters: Numbers of the law.
        clock: Steady seconds for the law.
        wall_clock: Seconds since 1970, for what people read.
        gate: Told what may be promised to requests.
        private_bytes: Gives the process's own memory in bytes.
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
        gate: MemoryGate | None = None,
        private_bytes: Callable[[], int] = anonymous_bytes,
        pin: int | None = None,
        worst_position: int | None = None,
    ) -> None:
        self.events = EventStream()
        """Decisions and moves as they happen."""
        self._elastic = elastic
        self._monitor = monitor
        self._parameters = parameters
        self._clock = clock
        self._wall_clock = wall_clock
        self._gate = MemoryGate() if gate is None else gate
        self._private_bytes = private_bytes
        self._private_failed = False
        self._law = Law(parameters, tuple(elastic.footprints))
        self._report = MemoryReport(parameters, self._law.footprints)
        self._lock = threading.RLock()  # guards what follows
        self._memory_state = State()
        self._readings = Readings((), {})
        self._last_decision: DecisionState | None = None
        self._move: Future[int] | None = None
        self._ring = Ring()
        self._told = ElasticEvents(self.events)
        self._move_failed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        if worst_position is not None:
            self._memory_state = wishes.limit(self._law, self._memory_state, worst_position, clock(), None)
        if pin is not None:
            self._memory_state = wishes.pin(self._law, self._memory_state, pin, clock(), None)

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

    def tick(self) -> float:
        """Sample, decide and order once; returns the seconds until the next tick."""
        with self._lock:
            self._gate.sampling()
            sample, now, before = self._sample(), self._clock(), self._memory_state
            after, orders = self._law.decide(before, sample, now)
            self._memory_state = after
            self._ring.tick(now, before, sample, orders, after)
            if after.last_decision is not None and after.last_decision is not before.last_decision:
                self._log(after.last_decision)
            for order in orders:
                self._carry_order_out(order)
            admission = self._law.admission(after, sample, now)
            self._gate.refuse(None if admission.refusal is None else REFUSAL.format(why=admission.refusal))
            self._gate.update(admission.room, final=admission.final)
            self._told.tell(
                position=sample.position,
                target=self._elastic.target,
                footprint_bytes=self._law.footprints[sample.position],
                phase=after.phase,
                decision=self._last_decision,
            )
            return self._law.pause(after, sample, now)

    def trace(self) -> Iterator[str]:
        """Lines of a dump of the last minutes, without their ends; see `controller/trace.py`."""
        with self._lock:
            return self._ring.dump(
                DumpHeader(
                    flexquant=version("flexquant"),
                    wall_time=self._wall_clock(),
                    now=self._clock(),
                    parameters=self._parameters,
                    footprints=tuple(self._law.footprints),
                )
            )

    @property
    def footprints(self) -> Sequence[int]:
        """Bytes of resident weights at positions 0..N."""
        return self._law.footprints

    def sequence(self) -> SequenceState:
        """What `GET /v1/elastic/sequence` answers."""
        qualities = zip(self._law.footprints, self._elastic.quality, strict=True)
        return SequenceState(tuple(PositionState(nbytes, found.perplexity, found.kl) for nbytes, found in qualities))

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
            tightest = self._report.tightest(self._readings)
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
                pressure=self._report.pressure(self._readings),
                phase=kept.phase,
                refusing=kept.last_refusal if kept.refusing else None,
                quality=elastic.quality[position],
                last_decision=self._last_decision,
                release_efficiency=kept.efficiency,
                retained_bytes=kept.retained,
                memory=elastic.memory_state(),
                sources=self._report.sources(self._readings),
                stress=self._readings.stress,
            )

    async def pin_position(self, position: int, ttl_seconds: float | None = None) -> ElasticState:
        """Hold `position`, for `ttl_seconds` if given; the answer comes when the move was carried out.

        Critical memory overrides a pin; the answer says so then.

        Raises:
            UsageError: The position is out of range or beyond the worst position, or the time is not positive.
            SwapError: The model could not get there.
        """
        return await self._carry_out(lambda state, now: wishes.pin(self._law, state, position, now, ttl_seconds))

    async def pin_bytes(self, limit: int, ttl_seconds: float | None = None) -> ElasticState:
        """Hold the best position whose weights take at most `limit` bytes.

        Raises:
            UsageError: Even the smallest position takes more; as for `pin_position`.
            SwapError: The model could not get there.
        """
        return await self.pin_position(wishes.best_within(self._law.footprints, limit), ttl_seconds)

    async def auto(self, ttl_seconds: float | None = None) -> ElasticState:
        """Follow the memory again; with `ttl_seconds` the pin returns after that time.

        Raises:
            UsageError: The time is not positive.
        """
        return await self._carry_out(lambda state, now: wishes.auto(state, now, ttl_seconds))

    async def set_worst(self, position: int, ttl_seconds: float | None = None) -> ElasticState:
        """Never go beyond `position`; N takes the limit away.

        Raises:
            UsageError: The position is out of range, or the time is not positive.
            SwapError: The model could not come back within the limit.
        """
        return await self._carry_out(lambda state, now: wishes.limit(self._law, state, position, now, ttl_seconds))

    # The user's wishes -----------------------------------------------------------------------------------------

    async def _carry_out(self, wish: Callable[[State, float], State]) -> ElasticState:
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

    def _act_on(self, wish: Callable[[State, float], State]) -> Future[int] | None:
        with self._lock:
            self._memory_state = wish(self._memory_state, self._clock())
            before = self._move
            self.tick()
            under_way = self._move is not before or self._elastic.target != self._elastic.position
            return self._move if under_way else None

    # Every tick ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                pause = self.tick()
            except Exception:  # the model must not be left without control
                logger.exception("control tick failed")
                pause = self._parameters.tick_most_s

    def _sample(self) -> Sample:
        """Read memory and model so that they belong together: a step published in between spoils A + W."""
        for _ in range(READ_ATTEMPTS):
            model = self._look()
            self._readings = self._monitor.read()
            if model == self._look():
                break
        position, target, moving, memory = model
        failed = self._move_failed.is_set()
        self._move_failed.clear()
        return Sample(
            memory=self._readings.memory,
            failed=tuple(self._readings.failures),
            position=position,
            target=target,
            moving=moving,
            elastic_bytes=memory.elastic,
            move_failed=failed,
            stress=self._readings.stress,
            kv_bytes=memory.kv,
            kv_promised=memory.kv_promised,
            kv_wanted=self._gate.wanted,
            reusable_bytes=memory.reusable,
            private_bytes=self._private(),
        )

    def _private(self) -> int | None:
        try:
            return self._private_bytes()
        except OSError as error:  # releases are not checked then, and everything else goes on
            if not self._private_failed:
                logger.warning("the process's own memory cannot be read, so releases are not checked: %s", error)
            self._private_failed = True
            return None

    def _look(self) -> tuple[int, int, bool, ModelMemory]:
        elastic = self._elastic
        return elastic.position, elastic.target, elastic.moving, elastic.memory

    def _carry_order_out(self, order: Order) -> None:
        if isinstance(order, Move):
            self._move = self._elastic.request_position(order.position, urgent=order.urgent)
            self._move.add_done_callback(self._moved)
        elif isinstance(order, DropReusable):
            self._elastic.drop_reusable()
        else:
            self._elastic.trim()

    def _moved(self, move: Future[int]) -> None:
        if move.cancelled():
            return
        error = move.exception()
        if error is not None:
            self._move_failed.set()
            logger.error("move failed, position %d stays: %s", self._elastic.position, error)

    def _log(self, decision: Decision) -> None:
        self._last_decision = DecisionState(
            what=decision.what,
            why=decision.why,
            when=self._wall_clock(),
            from_position=decision.from_position,
            to_position=decision.to_position,
        )
        level = logging.WARNING if decision.what in LOUD else logging.INFO
        logger.log(
            level,
            "%s: position %d to %d (%s)",
            decision.what,
            decision.from_position,
            decision.to_position,
            decision.why,
        )
