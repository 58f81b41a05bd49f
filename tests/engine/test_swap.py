"""Moves of the swapper with stores made of bytes: contents, order, books, failures, threads."""

import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import CheckpointError, ClosedError, SwapError
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory.registry import MemoryRegistry
from flexquant.engine.residency import Block, Residency
from flexquant.engine.swap import Swapper
from support.byte_stores import carry_out, check_contents, counted_mappings, read, swapper_on
from support.sequences import Plan, ladder, plans

MIB = 1024 * 1024


@settings(deadline=None, max_examples=60)
@given(plan=plans(), data=st.data())
def test_any_walk_ends_with_the_right_weights(plan: Plan, data: st.DataObject) -> None:
    positions = st.integers(0, len(plan.sequence.transitions))
    with counted_mappings() as mappings, swapper_on(plan, data.draw(positions)) as (swapper, residency, registry):
        visited: list[int] = [swapper.position]

        def published(position: int) -> None:
            assert abs(position - visited[-1]) == 1
            visited.append(position)
            check_contents(swapper, residency, registry)
            if position == swapper.target:  # otherwise the loader may be mapping the next step's arenas
                assert sum(mappings) == residency.mapped(position) + residency.spare_bytes

        swapper.on_published = published
        check_contents(swapper, residency, registry)
        for target in data.draw(st.lists(positions, max_size=6)):
            start = len(visited)
            assert carry_out(swapper, swapper.move_to(target)) == target == swapper.position == swapper.target
            assert len(visited) - start == abs(target - visited[start - 1])
            assert registry.snapshot().loading == 0
        assert swapper.last_error is None
    assert sum(mappings) == 0


@settings(deadline=None, max_examples=60)
@given(plan=plans())
def test_shrinking_maps_nothing(plan: Plan) -> None:
    """From 0 to N with the system's map call taken away."""

    def refuse(*_: object) -> int:
        raise MemoryError("mapped while shrinking")

    with swapper_on(plan) as (swapper, residency, registry), pytest.MonkeyPatch.context() as patch:
        patch.setattr("flexquant.engine.memory.arena._map", refuse)
        assert carry_out(swapper, swapper.move_to(residency.max_position)) == residency.max_position
        check_contents(swapper, residency, registry)


def test_only_the_start_position_is_read() -> None:
    plan = ladder(modules=4)
    seen: list[tuple[str, int]] = []

    def reading(block: Block, buffer: memoryview) -> None:
        seen.extend((place.module, place.variant) for place in block.placed)
        read(block, buffer)

    with swapper_on(plan, 3, reading) as (swapper, residency, registry):
        assert seen == [("m0", 1), ("m1", 1), ("m2", 1), ("m3", 0)]
        check_contents(swapper, residency, registry)


def test_progress_counts_payload_bytes() -> None:
    plan = ladder(modules=3)
    residency = Residency(plan.sequence, plan.sizes)
    calls: list[tuple[int, int]] = []
    registry = MemoryRegistry(fixed=0, embedding=0, scratch={})
    swapper = Swapper(
        residency, read, position=0, registry=registry, progress=lambda done, total: calls.append((done, total))
    )
    swapper.close()
    assert [total for _, total in calls] == [residency.payload(0)] * 3
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == residency.payload(0)


def test_without_budget_one_safe_point_carries_out_one_step() -> None:
    ready = threading.Semaphore(0)
    with swapper_on(ladder(modules=5)) as (swapper, _, _):
        swapper.on_ready = ready.release
        future = swapper.move_to(5, budget_s=0)
        for step in range(1, 6):
            assert ready.acquire(timeout=30)
            assert swapper.position == step - 1
            swapper.safe_point()
            assert swapper.position == step
        assert future.result(timeout=0) == 5


def test_the_loader_is_at_most_one_step_ahead() -> None:
    reads: list[int] = []

    def counting(block: Block, buffer: memoryview) -> None:
        reads.append(1)
        read(block, buffer)

    with swapper_on(ladder(modules=5), 0, counting) as (swapper, _, _):
        at_start = len(reads)
        ready = threading.Semaphore(0)
        swapper.on_ready = ready.release
        swapper.move_to(5, budget_s=0)
        for step in range(1, 6):
            assert ready.acquire(timeout=30)
            time.sleep(0.02)  # room for a loader that would run ahead
            assert len(reads) - at_start == step
            swapper.safe_point()


def test_a_later_order_supersedes() -> None:
    ready = threading.Semaphore(0)
    with swapper_on(ladder(modules=5)) as (swapper, residency, registry):
        swapper.on_ready = ready.release
        first = swapper.move_to(5, budget_s=0)
        assert ready.acquire(timeout=30)
        swapper.safe_point()
        assert ready.acquire(timeout=30)  # the step to 2 waits in the spare
        second = swapper.move_to(0)
        assert first.result(timeout=0) == 1
        swapper.safe_point()
        assert second.result(timeout=30) == 0
        check_contents(swapper, residency, registry)


def test_an_order_for_the_same_place_joins() -> None:
    with swapper_on(ladder(modules=3)) as (swapper, _, _):
        first, second = swapper.move_to(2, budget_s=0), swapper.move_to(2)
        assert carry_out(swapper, first) == 2
        assert second.result(timeout=0) == 2


def test_an_order_for_where_it_is_is_done_at_once() -> None:
    with swapper_on(ladder(modules=3), 1) as (swapper, _, _):
        assert swapper.move_to(1).result(timeout=0) == 1


def test_a_superseded_growing_step_leaves_nothing_behind() -> None:
    ready = threading.Semaphore(0)
    with swapper_on(ladder(modules=5), 3) as (swapper, residency, registry):
        swapper.on_ready = ready.release
        swapper.move_to(0, budget_s=0)
        assert ready.acquire(timeout=30)
        assert registry.snapshot().loading == residency.step(3, 2).changes[0].new.mapped
        assert swapper.move_to(3).result(timeout=0) == 3
        assert registry.snapshot().loading == 0
        check_contents(swapper, residency, registry)


@pytest.mark.parametrize(("first", "then", "path"), [(0, 4, [3, 4]), (4, 1, [1])])
def test_a_step_that_is_overtaken_while_it_is_read_is_not_published(first: int, then: int, path: list[int]) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(block: Block, buffer: memoryview) -> None:
        reading.set()
        assert go_on.wait(30)
        read(block, buffer)

    go_on.set()
    with swapper_on(ladder(modules=5), 2, slow) as (swapper, residency, registry):
        visited: list[int] = []
        swapper.on_published = visited.append
        go_on.clear()
        reading.clear()
        swapper.move_to(first)
        assert reading.wait(30)
        future = swapper.move_to(then)
        go_on.set()
        assert carry_out(swapper, future) == then
        assert visited == path
        assert registry.snapshot().loading == 0
        check_contents(swapper, residency, registry)


@pytest.mark.parametrize(("start", "end"), [(0, 5), (5, 0)])
def test_a_failed_load_leaves_the_position_and_the_next_move_works(start: int, end: int) -> None:
    broken = threading.Event()

    def failing(block: Block, buffer: memoryview) -> None:
        if broken.is_set() and any(place.module == "m2" for place in block.placed):
            buffer[:10] = b"0123456789"
            raise CheckpointError("store.safetensors: ends within tensor x", hint="Build it again.")
        read(block, buffer)

    with swapper_on(ladder(modules=5), start, failing) as (swapper, residency, registry):
        broken.set()
        future = swapper.move_to(end)
        with pytest.raises(SwapError, match=r"stays at position [23]; .*store.safetensors") as raised:
            carry_out(swapper, future)
        assert raised.value.hint == "Build it again."
        assert str(swapper.last_error) == str(raised.value)
        assert swapper.position == swapper.target == (2 if end else 3)
        assert registry.snapshot().loading == 0
        check_contents(swapper, residency, registry)
        broken.clear()
        assert carry_out(swapper, swapper.move_to(end)) == end
        assert swapper.last_error is None
        check_contents(swapper, residency, registry)


def test_no_room_to_grow_leaves_the_position() -> None:
    with swapper_on(ladder(modules=3), 3) as (swapper, residency, registry), pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> int:
            raise MemoryError("cannot map 12 bytes")

        patch.setattr("flexquant.engine.memory.arena._map", refuse)
        with pytest.raises(SwapError, match="cannot map 12 bytes"):
            carry_out(swapper, swapper.move_to(0))
        check_contents(swapper, residency, registry)
        patch.undo()
        assert carry_out(swapper, swapper.move_to(0)) == 0


def test_a_start_that_cannot_be_read_gives_everything_back() -> None:
    plan = ladder(modules=3, pages=4096)

    def failing(block: Block, buffer: memoryview) -> None:
        if block.placed[0].module == "m2":
            raise CheckpointError("truncated")

    before = anonymous_bytes()
    with pytest.raises(CheckpointError, match="truncated"), swapper_on(plan, 0, failing):
        pytest.fail("must not start")
    assert anonymous_bytes() - before < 8 * MIB  # the arenas, which are touched before they are read, have 56 MiB


def test_closing_ends_moves_and_refuses_new_ones() -> None:
    with swapper_on(ladder(modules=3)) as (swapper, _, _):
        future = swapper.move_to(3, budget_s=0)
        swapper.close()
        with pytest.raises(ClosedError, match="closed during the move"):
            future.result(timeout=0)
        with pytest.raises(ClosedError, match="closed"):
            swapper.move_to(1)
        swapper.safe_point()


@pytest.mark.parametrize("position", [-1, 4])
def test_positions_outside_the_sequence_are_refused(position: int) -> None:
    with swapper_on(ladder(modules=3)) as (swapper, _, _), pytest.raises(ValueError, match=r"outside 0\.\.3"):
        swapper.move_to(position)


def test_a_view_that_was_kept_is_found_before_it_can_crash() -> None:
    with swapper_on(ladder(modules=1)) as (swapper, residency, registry):
        arena = swapper.resident(0)[1]
        assert arena is not None
        view = arena.array()
        future = swapper.move_to(1)
        with pytest.raises(RuntimeError, match="view"):
            swapper.safe_point()
        assert swapper.position == 0
        del view
        assert carry_out(swapper, future) == 1
        check_contents(swapper, residency, registry)


def test_a_wake_up_that_fails_does_not_end_the_loader() -> None:
    with swapper_on(ladder(modules=3)) as (swapper, _, _):

        def fail() -> None:
            raise RuntimeError("nobody there")

        swapper.on_ready = fail
        assert carry_out(swapper, swapper.move_to(3)) == 3


@pytest.mark.parametrize("seed", range(4))
def test_orders_from_other_threads_at_random(seed: int) -> None:
    """Two threads order moves, one is the engine; every step goes to a neighbour and holds the right weights."""
    plan = ladder(modules=12)
    stop = threading.Event()
    with swapper_on(plan) as (swapper, residency, registry):
        steps: list[int] = [0]

        def published(position: int) -> None:
            assert abs(position - steps[-1]) == 1
            assert 0 <= position <= 12
            steps.append(position)
            assert registry.snapshot().mapped == residency.mapped(position)

        def order(rng: random.Random) -> None:
            while not stop.is_set():
                future = swapper.move_to(rng.randint(0, 12), budget_s=rng.choice([None, 0, 0.001]))
                time.sleep(rng.random() * 0.003)
                if future.done():
                    assert 0 <= future.result() <= 12

        swapper.on_published = published
        threads = [threading.Thread(target=order, args=(random.Random(seed * 10 + number),)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            while len(steps) < 300:
                swapper.safe_point()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        carry_out(swapper, swapper.move_to(7))
        check_contents(swapper, residency, registry)


def test_what_changed_is_told_by_arena() -> None:
    with swapper_on(ladder(modules=3)) as (swapper, residency, _):
        carry_out(swapper, swapper.move_to(1))
        (first,) = (change.arena for change in residency.step(0, 1).changes)
        assert [swapper.changed_at(arena) for arena in range(3)] == [1 if arena == first else 0 for arena in range(3)]
        carry_out(swapper, swapper.move_to(2))
        (second,) = (change.arena for change in residency.step(1, 2).changes)
        assert swapper.changed_at(second) == 2 == swapper.published
        assert swapper.changed_at(first) == 1
