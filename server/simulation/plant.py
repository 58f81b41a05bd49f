"""A small simulated machine around the control law: other programs, latency, lost samples, memory that stays away.

Closed loop: what the law orders changes the memory that it sees next.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, Parameters, Reserves
from flexquant.server.controller.sample import MemoryReading, Move, Order, Sample, StressReading, Trim
from flexquant.server.controller.state import State
from flexquant.server.simulation.loads import Load

WATERMARK = 0.02
"""Share of the machine below which tasks begin to wait for memory."""

Stalls = Callable[[float], tuple[float, float]]
"""Shares of the time in which some task, and all tasks, wait for memory for other reasons, by time in seconds."""


def even_footprints(steps: int = 60, up: int = 3 * GIB, low: int = 1 * GIB) -> tuple[int, ...]:
    """Footprints of `steps` equal transitions from `up` to `low` bytes."""
    return tuple(up - round((up - low) * k / steps) for k in range(steps + 1))


def no_stalls(_now: float) -> tuple[float, float]:
    """Nobody waits."""
    return 0.0, 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at the machine: what was, and what was ordered.

    Args:
        at: Seconds since the start.
        lasts: Seconds until the next look.
        available: Bytes, negative when programs have to be swapped.
        position: Published.
        target: Ordered, by this tick's orders too.
        orders: Given.
        state: After the decision.
    """

    at: float
    lasts: float
    available: int
    position: int
    target: int
    orders: tuple[Order, ...]
    state: State


@dataclass(slots=True)
class Plant:
    """A machine of `total` bytes with other programs and elastic models.

    Args:
        load: What the other programs hold.
        footprints: Of each model.
        parameters: Of the law.
        total: Bytes of the machine.
        latency: Seconds from an order to its first step.
        rate: Bytes per second by which an urgent move then changes the footprint.
        paced_rate: The same of a move that leaves the tokens their time.
        retention: Share of released bytes that stay away until the heap is trimmed.
        stuck: Share of released bytes that not even a trim brings back.
        stalls: Of tasks, beside those that a shortage causes here.
        lost: Share of samples in which no source answers.
        noise: Bytes by which a reading may be wrong, either way.
        seed: Of noise and losses.
        start: First position.
    """

    load: Load
    footprints: tuple[int, ...] = field(default_factory=even_footprints)
    parameters: Parameters = field(default_factory=Parameters)
    total: int = 16 * GIB
    latency: float = 0.05
    rate: float = 2 * GIB
    paced_rate: float = 0.5 * GIB
    retention: float = 0.0
    stuck: float = 0.0
    stalls: Stalls = no_stalls
    lost: float = 0.0
    noise: int = 0
    seed: int = 0
    start: int = 0

    @property
    def reserves(self) -> Reserves:
        """Reserves of this machine."""
        step = max((above - below for above, below in pairwise(self.footprints)), default=0)
        return self.parameters.reserves(self.total, shared=True, largest_step=step)

    def run(self, seconds: float, state: State | None = None) -> list[Tick]:
        """Simulate one model; one entry per look."""
        return self.run_together(1, seconds, state)[0]

    def run_together(self, models: int, seconds: float, state: State | None = None) -> list[list[Tick]]:
        """Simulate several models on the one machine; the seeds of their laws differ."""
        chance = random.Random(self.seed)
        daemons = [_Daemon(self, index, State() if state is None else state) for index in range(models)]
        stress = _Stress(self)
        while (daemon := min(daemons, key=lambda other: other.next_look)).next_look < seconds:
            now = daemon.next_look
            for other in daemons:
                other.advance(now)
            available = round(self.total - self.load(now) - sum(other.held for other in daemons))
            daemon.look(now, available, stress.read(now, available), chance)
        return [daemon.ticks for daemon in daemons]


class _Stress:
    """The machine's stall counters; it stalls where memory falls below the watermark."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._at = 0.0
        self._some = self._full = 0.0
        self._averages = {10: 0.0, 60: 0.0}
        self._swapped = 0

    def read(self, now: float, available: int) -> StressReading:
        plant, passed = self._plant, now - self._at
        some, full = plant.stalls(now)
        watermark = WATERMARK * plant.total
        some = min(1.0, max(some, (watermark - available) / watermark))
        full = min(1.0, max(full, -available / watermark))
        self._at = now
        self._some += 1e6 * passed * max(some, 0.0)
        self._full += 1e6 * passed * max(full, 0.0)
        self._swapped = max(self._swapped, -available)
        for seconds in self._averages:
            share = min(1.0, passed / seconds)
            self._averages[seconds] += share * (100 * max(some, 0.0) - self._averages[seconds])
        return StressReading(
            "psi",
            some_us=round(self._some),
            full_us=round(self._full),
            some_avg10=round(self._averages[10], 2),
            some_avg60=round(self._averages[60], 2),
            swapped_out=self._swapped,
        )


class _Daemon:
    """One model and its controller."""

    def __init__(self, plant: Plant, index: int, state: State) -> None:
        self._plant = plant
        self._law = Law(_with_seed(plant.parameters, index), plant.footprints)
        self._state = state
        self._position = self._target = plant.start
        self._arrives: float | None = None  # when the next step does
        self._urgent = False
        self._retained = self._stuck = 0.0
        self.next_look = 0.01 * index
        self.ticks: list[Tick] = []

    @property
    def held(self) -> float:
        """Bytes of the machine that it takes."""
        return self._plant.footprints[self._position] + self._retained + self._stuck

    def advance(self, now: float) -> None:
        """Publish the steps that are done by now."""
        while self._arrives is not None and self._arrives <= now:
            before = self._plant.footprints[self._position]
            self._position += 1 if self._target > self._position else -1
            freed = before - self._plant.footprints[self._position]
            if freed > 0:
                self._retained += self._plant.retention * freed
                self._stuck += self._plant.stuck * freed
            done = self._position == self._target
            self._arrives = None if done else self._arrives + self._step_seconds()

    def look(self, now: float, available: int, stress: StressReading, chance: random.Random) -> None:
        """Sample, decide, order."""
        plant = self._plant
        seen = max(0, available + (round(chance.uniform(-plant.noise, plant.noise)) if plant.noise else 0))
        answers = chance.random() >= plant.lost
        footprint = plant.footprints[self._position]
        sample = Sample(
            memory=(MemoryReading("host", seen, plant.total),) if answers else (),
            failed=() if answers else ("host",),
            position=self._position,
            target=self._target,
            moving=self._position != self._target,
            elastic_bytes=footprint,
            stress=(stress,) if answers else (),
            private_bytes=round(self.held),
        )
        self._state, orders = self._law.decide(self._state, sample, now)
        for order in orders:
            if isinstance(order, Move):
                self._urgent = order.urgent
                under_way = self._arrives if order.position == self._target else None
                self._target = order.position
                if self._target == self._position:
                    self._arrives = None
                elif under_way is None:
                    self._arrives = now + plant.latency + self._step_seconds()
                else:
                    self._arrives = min(under_way, now + self._step_seconds())
            if isinstance(order, Trim):
                self._retained = 0.0
        lasts = self._law.pause(self._state, sample, now)
        self.ticks.append(Tick(now, lasts, available, self._position, self._target, orders, self._state))
        self.next_look = now + lasts

    def _step_seconds(self) -> float:
        rate = self._plant.rate if self._urgent else self._plant.paced_rate
        toward = 1 if self._target > self._position else -1
        footprints = self._plant.footprints
        return abs(footprints[self._position] - footprints[self._position + toward]) / rate


def _with_seed(parameters: Parameters, index: int) -> Parameters:
    return replace(parameters, seed=parameters.seed + index)
