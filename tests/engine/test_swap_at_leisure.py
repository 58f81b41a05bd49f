"""Which moves of the swapper let computing go first."""

import threading

import pytest

from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.pace import Pace
from flexquant.engine.residency import Block, Residency
from flexquant.engine.swap import Swapper
from support.byte_stores import carry_out, read
from support.sequences import ladder


@pytest.mark.parametrize(
    ("start", "end", "budget", "paced"),
    [(5, 0, 0.0, True), (5, 0, None, False), (0, 5, 0.0, False), (0, 5, None, False)],
)
def test_only_growth_that_nobody_waits_for_is_read_at_leisure(
    start: int, end: int, budget: float | None, paced: bool
) -> None:
    resting: list[bool] = []
    hurried = Pace()

    def watching(block: Block, buffer: memoryview) -> None:
        resting.append(not hurried._hurry.is_set())
        read(block, buffer)

    plan = ladder(modules=5)
    residency = Residency(plan.sequence, plan.sizes)
    registry = MemoryRegistry(fixed=0, embedding=0, scratch={"spare": residency.spare_bytes})
    swapper = Swapper(residency, watching, position=start, registry=registry, pace=hurried)
    try:
        assert not any(resting), "a start is waited for"
        resting.clear()
        carry_out(swapper, swapper.move_to(end, budget_s=budget))
        assert resting == [paced] * 5
        assert hurried._hurry.is_set()
    finally:
        swapper.close()


@pytest.mark.parametrize(("then", "budget"), [(5, 0.0), (0, None)])
def test_an_order_that_somebody_waits_for_ends_the_leisure(then: int, budget: float | None) -> None:
    """Memory is short while a growing step is read: what is left of it must not take its time."""
    pace = Pace()
    pace.computing = True
    began, ended = threading.Event(), threading.Event()

    def slow(block: Block, buffer: memoryview) -> None:
        read(block, buffer)
        began.set()
        pace._began -= 1000  # as if that had taken long
        pace.rest()
        ended.set()

    plan = ladder(modules=5)
    residency = Residency(plan.sequence, plan.sizes)
    registry = MemoryRegistry(fixed=0, embedding=0, scratch={"spare": residency.spare_bytes})
    swapper = Swapper(residency, slow, position=4, registry=registry, pace=pace)
    try:
        began.clear()
        ended.clear()
        swapper.move_to(0, budget_s=0.0)
        assert began.wait(30)
        assert not ended.wait(0.05)
        future = swapper.move_to(then, budget_s=budget)
        assert ended.wait(30)
        pace.computing = False
        assert carry_out(swapper, future) == then
    finally:
        swapper.close()
