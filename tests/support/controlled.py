"""A controller whose model, memory and clock are in the test's hand."""

import threading
from concurrent.futures import Future

from flexquant.engine.errors import SwapError
from flexquant.server.control_loop import Controller
from flexquant.server.controller.parameters import GIB, MIB, Parameters
from flexquant.server.controller.sample import MemoryReading, StressReading
from flexquant.server.elastic_state import ElasticState, MemoryState, ModelMemory, Quality
from flexquant.server.memory_gate import MemoryGate
from flexquant.server.monitor import Monitor

FOOTPRINTS = tuple(GIB - k * 32 * MIB for k in range(11))
TOTAL = 16 * GIB
RESERVES = Parameters().reserves(TOTAL, shared=True, largest_step=32 * MIB)


class FakeElastic:
    """A model that moves when the test lets it."""

    def __init__(self) -> None:
        self.footprints = FOOTPRINTS
        self.quality = [Quality(perplexity=10.0 + k, kl=0.01 * k) for k in range(len(FOOTPRINTS))]
        self.position = 0
        self.target = 0
        self.at_once = True
        self.orders: list[tuple[int, bool]] = []
        self.relief: list[str] = []
        self.kv = self.kv_promised = self.reusable = 0
        self._move: Future[int] = Future()
        self.ordered = threading.Event()

    @property
    def moving(self) -> bool:
        return self.position != self.target

    @property
    def memory(self) -> ModelMemory:
        return ModelMemory(FOOTPRINTS[self.position], self.kv, self.kv_promised, self.reusable)

    def memory_state(self) -> MemoryState:
        return MemoryState(self.memory.elastic, 0, 0, 0, 0, 0, 0, self.memory.elastic, self.memory.elastic)

    def drop_reusable(self) -> None:
        self.relief.append("reusable")

    def trim(self) -> None:
        self.relief.append("trim")

    def request_position(self, position: int, *, urgent: bool) -> Future[int]:
        self.orders.append((position, urgent))
        self.target = position
        self._move = Future()
        self.ordered.set()
        if self.at_once:
            self.arrive()
        return self._move

    def arrive(self) -> None:
        self.position = self.target
        self._move.set_result(self.position)

    def fail(self) -> None:
        self.target = self.position
        self._move.set_exception(SwapError("module q: short read"))


class Rig:
    """A controller with a model, one memory source and a clock in the test's hand.

    `stays` is memory that the process holds beyond its books.
    """

    def __init__(self, parameters: Parameters | None = None, **limits: int) -> None:
        self.elastic = FakeElastic()
        self.others = 4 * GIB
        self.now = 1000.0
        self.silent = False
        self.stress: list[StressReading] = []
        self.stays = 0
        self.gate = MemoryGate()
        self.controller = Controller(
            self.elastic,
            Monitor([self]),
            parameters or Parameters(),
            lambda: self.now,
            wall_clock=lambda: 5e8,
            gate=self.gate,
            private_bytes=lambda: self.elastic.memory.elastic + self.elastic.kv + self.stays,
            pin=limits.get("pin"),
            worst_position=limits.get("worst_position"),
        )

    name = "host"

    def read(self) -> list[MemoryReading | StressReading]:
        if self.silent:
            raise OSError("no answer")
        available = TOTAL - self.others - FOOTPRINTS[self.elastic.position] - self.elastic.kv - self.stays
        return [MemoryReading("host", available, TOTAL), *self.stress]

    def leave(self, available: int) -> None:
        """Make other programs leave so many bytes."""
        self.others = TOTAL - FOOTPRINTS[self.elastic.position] - self.elastic.kv - self.stays - available

    def tick(self, seconds: float = 0.25) -> ElasticState:
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            self.controller.tick()
        return self.controller.state()
