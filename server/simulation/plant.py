"""A small simulated machine around the control law: other programs, latency, lost samples.

Closed loop: what the law orders changes the memory that it sees next.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, Parameters, Reserves
from flexquant.server.controller.sample import MemoryReading, Move, Sample
from flexquant.server.controller.state import State
from flexquant.server.simulation.loads import Load


def even_footprints(steps: int = 60, up: int = 3 * GIB, low: int = 1 * GIB) -> tuple[int, ...]:
    """Footprints of `steps` equal transitions from `up` to `low` bytes."""
    return tuple(up - round((up - low) * k / steps) for k in range(steps + 1))


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a run: what was, and what was ordered."""

    at: float
    available: int
    position: int
    target: int
    moves: tuple[Move, ...]
    state: State
    """After the decision."""


@dataclass(slots=True)
class Plant:
    """A machine of `total` bytes with other programs and one elastic model.

    Args:
        load: What the other programs hold.
        footprints: Of the model.
        parameters: Of the law.
        total: Bytes of the machine.
        latency: Ticks from an order to the release (or taking) of its bytes, at least 1.
        lost: Share of samples in which no source answers.
        noise: Bytes by which a reading may be wrong, either way.
        seed: Of noise and losses.
        start: First position.
    """

    load: Load
    footprints: tuple[int, ...] = field(default_factory=even_footprints)
    parameters: Parameters = field(default_factory=Parameters)
    total: int = 16 * GIB
    latency: int = 2
    lost: float = 0.0
    noise: int = 0
    seed: int = 0
    start: int = 0

    @property
    def reserves(self) -> Reserves:
        """Reserves of this machine."""
        step = max(above - below for above, below in pairwise(self.footprints))
        return self.parameters.reserves(self.total, shared=True, largest_step=step)

    def run(self, seconds: float, state: State | None = None) -> list[Tick]:
        """Simulate; one entry per tick."""
        law, chance = Law(self.parameters, self.footprints), random.Random(self.seed)
        state = State() if state is None else state
        position = target = self.start
        under_way: deque[tuple[int, int]] = deque()  # (tick of arrival, position); a later order stops no earlier step
        ticks: list[Tick] = []
        for index in range(round(seconds / self.parameters.tick_s)):
            now = index * self.parameters.tick_s
            while under_way and index >= under_way[0][0]:
                position = under_way.popleft()[1]
            available = round(self.total - self.load(now) - self.footprints[position])
            seen = available + (round(chance.uniform(-self.noise, self.noise)) if self.noise else 0)
            answers = chance.random() >= self.lost
            sample = Sample(
                memory=(MemoryReading("host", seen, self.total),) if answers else (),
                failed=() if answers else ("host",),
                position=position,
                target=target,
                moving=position != target,
                elastic_bytes=self.footprints[position],
            )
            state, moves = law.decide(state, sample, now)
            for move in moves:
                if move.position != target:
                    target = move.position
                    under_way.append((index + self.latency, target))
            ticks.append(Tick(now, available, position, target, moves, state))
        return ticks
