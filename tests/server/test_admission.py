"""Requests wait for memory, are refused for want of it, and never hold up those that run."""

import threading
from collections.abc import Callable, Iterator

import pytest

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server import engine_thread
from flexquant.server.api_error import ApiError
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Failed, Finished, Started
from flexquant.server.memory_gate import MemoryGate
from support.engine_requests import WAIT, Clock, Listener, hold, request, submit, until
from support.fake_model import DOCS_LLAMA, PAGE_BYTES, FakeModel

PAGES = 64
SMALL, LARGE = request(max_tokens=4), request(max_tokens=1000)
LARGE_BYTES = 16 * PAGE_BYTES


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(PAGES)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate() -> MemoryGate:
    return MemoryGate()


@pytest.fixture
def engine(model: FakeModel, clock: Clock, gate: MemoryGate) -> Iterator[EngineThread]:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    thread = EngineThread(model, tokenizer, parallel=3, max_queue=8, timeout_s=60, clock=clock, gate=gate)
    thread.start()
    yield thread
    model.gate.set()
    thread.stop("the test has ended")
    thread.join()
    assert model.free_pages == PAGES, "every page was given back"


def tick(gate: MemoryGate, room: int, *, final: bool = False) -> None:
    """What the controller does."""
    gate.sampling()
    gate.update(room, final=final)


def waiting_for(gate: MemoryGate, nbytes: int) -> Callable[[], bool]:
    return lambda: gate.wanted == nbytes


def failure(listener: Listener) -> ApiError:
    ended = listener.last()
    assert isinstance(ended, Failed)
    return ended.error


def test_a_request_waits_until_there_is_room(engine: EngineThread, gate: MemoryGate) -> None:
    tick(gate, PAGE_BYTES)
    _, large = submit(engine, LARGE)
    until(waiting_for(gate, LARGE_BYTES))
    tick(gate, LARGE_BYTES - 1)
    until(waiting_for(gate, LARGE_BYTES))
    assert (engine.waiting, engine.running) == (1, 0)
    assert large.events.empty()
    tick(gate, LARGE_BYTES)
    assert large.next() == Started(position=0)
    assert isinstance(large.last(), Finished)
    assert gate.wanted == 0


def test_what_runs_goes_on_and_nobody_goes_ahead(model: FakeModel, engine: EngineThread, gate: MemoryGate) -> None:
    _, runs = hold(model, engine, request(max_tokens=500))
    tick(gate, 2 * PAGE_BYTES)
    _, large = submit(engine, LARGE)
    _, small = submit(engine, SMALL)
    model.gate.set()
    assert isinstance(runs.last(), Finished)
    until(waiting_for(gate, LARGE_BYTES))
    assert large.events.empty()
    assert small.events.empty(), "it would fit, but a stream of such would starve the large one"
    tick(gate, LARGE_BYTES + PAGE_BYTES)
    assert isinstance(large.last(), Finished)
    assert isinstance(small.last(), Finished)


def test_promises_since_the_last_tick_take_room(model: FakeModel, engine: EngineThread, gate: MemoryGate) -> None:
    tick(gate, LARGE_BYTES + PAGE_BYTES)
    _, first = hold(model, engine, LARGE)
    _, second = submit(engine, LARGE)
    model.gate.set()
    assert isinstance(first.last(), Finished)
    until(waiting_for(gate, LARGE_BYTES))
    assert second.events.empty(), "the gate learns of freed pages from the next sample"
    tick(gate, LARGE_BYTES + PAGE_BYTES)
    assert isinstance(second.last(), Finished)


def test_when_nothing_more_can_be_released_it_is_refused_and_the_next_has_its_turn(
    engine: EngineThread, gate: MemoryGate
) -> None:
    tick(gate, PAGE_BYTES)
    _, large = submit(engine, LARGE)
    until(waiting_for(gate, LARGE_BYTES))
    _, small = submit(engine, SMALL)
    tick(gate, PAGE_BYTES, final=True)
    error = failure(large)
    assert (error.status, error.code) == (503, "memory_short")
    assert "retry-after" in error.headers
    assert isinstance(small.last(), Finished)


def test_what_does_not_fit_waits_for_those_that_run_and_is_refused_after_them(
    model: FakeModel, engine: EngineThread, gate: MemoryGate
) -> None:
    _, runs = hold(model, engine, SMALL)
    tick(gate, PAGE_BYTES, final=True)
    _, large = submit(engine, LARGE)
    until(lambda: engine.waiting == 1)
    assert large.events.empty()
    model.gate.set()
    assert isinstance(runs.last(), Finished)
    assert failure(large).code == "memory_short"


def test_a_cancelled_request_is_not_shrunk_for(engine: EngineThread, gate: MemoryGate) -> None:
    tick(gate, PAGE_BYTES)
    job, large = submit(engine, LARGE)
    until(waiting_for(gate, LARGE_BYTES))
    job.cancel()
    until(waiting_for(gate, 0))
    assert failure(large).status == 499
    _, small = submit(engine, SMALL)
    assert isinstance(small.last(), Finished)


def test_waiting_for_memory_counts_as_waiting(engine: EngineThread, gate: MemoryGate, clock: Clock) -> None:
    tick(gate, PAGE_BYTES)
    _, large = submit(engine, LARGE)
    until(waiting_for(gate, LARGE_BYTES))
    clock.now += 61
    assert failure(large).code == "timeout"


def test_the_end_reaches_who_waits_for_memory(engine: EngineThread, gate: MemoryGate) -> None:
    tick(gate, PAGE_BYTES)
    _, large = submit(engine, LARGE)
    until(waiting_for(gate, LARGE_BYTES))
    engine.stop("The daemon is stopping.")
    assert failure(large).code == "stopping"


def test_the_model_moves_while_all_wait_for_memory(model: FakeModel, engine: EngineThread, gate: MemoryGate) -> None:
    tick(gate, PAGE_BYTES)
    submit(engine, LARGE)
    until(waiting_for(gate, LARGE_BYTES))
    assert model.move_to(3).result(WAIT) == 3
    assert gate.wanted == LARGE_BYTES


def test_no_new_work_in_the_floor_phase(model: FakeModel, engine: EngineThread, gate: MemoryGate) -> None:
    _, runs = hold(model, engine, SMALL)
    gate.refuse("Memory is critical, and the model is as small as it gets.")
    with pytest.raises(ApiError, match="as small as it gets") as refused:
        submit(engine, SMALL)
    assert (refused.value.status, refused.value.code) == (503, "memory_critical")
    assert engine.waiting == 0
    model.gate.set()
    assert isinstance(runs.last(), Finished)
    gate.refuse(None)
    _, later = submit(engine, SMALL)
    assert isinstance(later.last(), Finished)


def test_pages_that_are_not_free_cost_no_room(model: FakeModel, engine: EngineThread, gate: MemoryGate) -> None:
    """The second finds no pages, again and again, until the first has ended: its promise is taken back each time."""
    tick(gate, 100 * PAGE_BYTES)
    _, first = hold(model, engine, request(max_tokens=50 * 64 - 10))
    _, second = submit(engine, request(max_tokens=40 * 64 - 10))
    model.gate.set()
    assert isinstance(first.last(), Finished)
    assert isinstance(second.last(), Finished)


def test_all_choices_of_a_request_end_when_one_is_refused(engine: EngineThread, gate: MemoryGate) -> None:
    tick(gate, PAGE_BYTES, final=True)
    _, listener = submit(engine, LARGE, LARGE)
    assert failure(listener).code == "memory_short"
    until(lambda: (engine.waiting, engine.running) == (0, 0))


def test_no_wake_up_is_lost(engine: EngineThread, gate: MemoryGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller opens the gate at the moment at which a request comes to it."""
    monkeypatch.setattr(engine_thread, "_LOOK_S", 10 * WAIT)  # looking again by itself would hide it
    for _ in range(100):
        tick(gate, 0)
        opened = threading.Thread(target=tick, args=(gate, PAGE_BYTES))
        opened.start()
        _, listener = submit(engine, SMALL)
        opened.join()
        assert isinstance(listener.last(), Finished)
