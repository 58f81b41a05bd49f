"""The model as the controller sees it."""

import logging
from concurrent.futures import Future

import pytest

from flexquant.engine.errors import SwapError
from flexquant.engine.memory.registry import MemorySnapshot, ModuleBytes
from flexquant.server.elastic_facade import ElasticFacade
from flexquant.server.elastic_state import Elastic, Quality


class Model:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.footprints = [300, 200, 100]
        self.position = 0
        self.target = 0
        self.moving = False
        self.drop_page_cache = False
        self.loading = 0
        self.budgets: list[float | None] = []
        self.drops = 0
        self.future: Future[int] = Future()

    def resident_bytes(self) -> MemorySnapshot:
        mapped = self.footprints[self.position] + 7
        return MemorySnapshot({"m": ModuleBytes(mapped - 7, mapped)}, self.loading, 50, {"spare": 9}, 5, 11)

    def drop_reusable(self) -> None:
        self.drops += 1

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


def test_urgent_move_may_hold_up_decoding_and_others_share_the_tokens_time() -> None:
    model = Model()
    model.position = 1
    elastic = facade(model, seconds_per_token=0.04)
    elastic.request_position(2, urgent=True)
    elastic.request_position(2, urgent=False)
    elastic.request_position(0, urgent=False)
    assert model.drops == 2, "before the model shrinks, what costs no quality goes"
    assert model.budgets == [None, pytest.approx(0.010), pytest.approx(0.004)]


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
