"""The model as the controller sees it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from flexquant.engine.errors import SwapError
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.engine.memory.registry import MemorySnapshot, ModuleBytes
from flexquant.server.counts import Counts
from flexquant.server.elastic_facade import ElasticFacade
from flexquant.server.elastic_state import Elastic, Quality
from flexquant.server.exposition import Counter


class Model:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.footprints = [300, 200, 100]
        self.position = 0
        self.target = 0
        self.moving = False
        self.drop_page_cache = False
        self.on_published: Callable[[int], None] = lambda _position: None
        self.loading = 0
        self.budgets: list[float | None] = []
        self.drops = 0
        self.trims = 0
        self.promised_bytes = 20
        self.reusable_bytes = 30
        self.future: Future[int] = Future()

    def resident_bytes(self) -> MemorySnapshot:
        mapped = self.footprints[self.position] + 7
        return MemorySnapshot({"m": ModuleBytes(mapped - 7, mapped)}, self.loading, 50, {"spare": 9}, 5, 11)

    def drop_reusable(self) -> None:
        self.drops += 1

    def drop_file_cache(self) -> None:
        self.trims += 1

    def move_to(self, position: int, *, budget_s: float | None = None) -> Future[int]:
        self.budgets.append(budget_s)
        self.target = position
        return self.future


def facade(model: Model, seconds_per_token: float | None = None) -> ElasticFacade:
    return ElasticFacade(model, [Quality(10.0, 0.0)] * 3, lambda: seconds_per_token, clock=lambda: 0.0)


def test_it_is_what_the_controller_needs() -> None:
    elastic: Elastic = facade(Model())
    assert list(elastic.footprints) == [300, 200, 100]
    assert len(elastic.quality) == 3


def test_transient_copies_count_and_other_memory_does_not() -> None:
    model = Model()
    model.loading = 40
    assert facade(model).memory.elastic == 300 + 7 + 40


def test_memory_of_prompts_is_told_by_what_it_is_for() -> None:
    memory = facade(Model()).memory
    assert (memory.kv, memory.kv_promised, memory.reusable) == (50, 20, 30)


def test_all_memory_adds_up() -> None:
    model = Model()
    model.loading = 40
    state = facade(model).memory_state()
    assert (state.elastic, state.kv, state.scratch, state.fixed, state.embedding) == (347, 50, 9, 5, 11)
    assert state.registry == state.elastic + state.kv + state.scratch + state.fixed
    assert state.private == pytest.approx(anonymous_bytes(), abs=1 << 24)


def test_orders_are_passed_on() -> None:
    model = Model()
    elastic = facade(model)
    elastic.drop_reusable()
    assert (model.drops, model.trims) == (1, 0)
    _trimmed(elastic)
    assert (model.drops, model.trims) == (1, 1)


def _trimmed(elastic: ElasticFacade) -> None:
    elastic.trim()
    for thread in threading.enumerate():
        if thread.name == "trim":
            thread.join(60)


def test_trimming_gives_the_heap_back() -> None:
    model, blocks = Model(), [bytes(100_000) for _ in range(300)]
    pins = blocks[::20]  # so that the top of the heap is not all that is free
    held = anonymous_bytes()
    del blocks
    _trimmed(facade(model))
    assert anonymous_bytes() < held - 10_000_000
    assert len(pins) == 15


def test_urgent_move_may_hold_up_decoding_and_others_share_the_tokens_time() -> None:
    model = Model()
    model.position = 1
    elastic = facade(model, seconds_per_token=0.04)
    elastic.request_position(2, urgent=True)
    elastic.request_position(2, urgent=False)
    elastic.request_position(0, urgent=False)
    assert model.drops == 0, "the law orders that"
    assert model.budgets == [None, pytest.approx(0.010), 0.0], "nobody waits for more quality"


@pytest.mark.parametrize("urgent", [True, False])
def test_file_pages_are_dropped_while_memory_is_short(urgent: bool) -> None:
    model = Model()
    facade(model).request_position(1, urgent=urgent)
    assert model.drop_page_cache is urgent


def test_share_of_slow_tokens_is_limited() -> None:
    model = Model()
    elastic = facade(model, seconds_per_token=10.0)
    elastic.request_position(1, urgent=False)
    assert model.budgets == [pytest.approx(0.030)]


def test_each_move_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    with caplog.at_level(logging.INFO, logger="flexquant.server.elastic_facade"):
        moved = facade(model).request_position(2, urgent=True)
        assert not caplog.messages
        model.position = 2
        model.future.set_result(2)
        assert moved.result() == 2
    assert caplog.messages == ["move position_start=0 position_end=2 mapped_bytes=107 freed_bytes=200 seconds=0.000"]


def test_failed_move_is_left_to_the_controller(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    with caplog.at_level(logging.INFO, logger="flexquant.server.elastic_facade"):
        moved = facade(model).request_position(2, urgent=True)
        model.future.set_exception(SwapError("gone"))
        with pytest.raises(SwapError):
            moved.result()
    assert not caplog.messages


def test_moves_are_counted_by_how_they_end_and_bytes_by_step() -> None:
    model, counts = Model(), Counts()
    elastic = ElasticFacade(model, [Quality(10.0, 0.0)] * 3, lambda: None, clock=lambda: 0.0, counts=counts)
    cut_short = elastic.request_position(2, urgent=True)
    model.position = 1
    model.on_published(1)
    model.future, first = Future(), model.future
    back = elastic.request_position(0, urgent=False)
    first.set_result(1)
    model.position = 0
    model.on_published(0)
    model.future.set_result(0)
    model.future = Future()
    failed = elastic.request_position(2, urgent=True)
    model.future.set_exception(SwapError("gone"))
    model.future = Future()
    elastic.request_position(0, urgent=False)
    model.future.set_result(0)
    assert (cut_short.result(), back.result(), str(failed.exception())) == (1, 0, "gone")
    assert values(counts.swaps) == {"down": 1, "up": 1}, "one that was there already is none"
    assert values(counts.swap_bytes) == {"down": 100, "up": 100}
    assert [value for _, _, value in counts.failed_swaps.samples()] == [1]


def values(counter: Counter) -> dict[str, float]:
    return {labels[0][1]: value for _, labels, value in counter.samples()}
