"""The thread that computes: turns, cancellation at safe points, moves while idle, stopping."""

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flexquant.engine.sampling import GREEDY
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.engine_thread import EngineThread, Job
from flexquant.server.error_envelope import ApiError
from flexquant.server.generation_request import Event, Failed, Finished, GenerationRequest, Started
from support.fake_model import DOCS_LLAMA, LAYERS, FakeModel

WAIT = 30.0


class Listener:
    """Collects the events of one request."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()

    def next(self) -> Event:
        return self.events.get(timeout=WAIT)

    def last(self) -> Finished | Failed:
        while True:
            event = self.next()
            if isinstance(event, Finished | Failed):
                return event


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def engine(model: FakeModel) -> Iterator[EngineThread]:
    thread = EngineThread(model, Tokenizer.open(DOCS_LLAMA), max_queue=2)
    thread.start()
    yield thread
    model.gate.set()
    thread.stop("the test has ended")
    thread.join()


def request(prompt: int = 3, max_tokens: int = 4) -> GenerationRequest:
    return GenerationRequest([70] * prompt, max_tokens, GREEDY)


def submit(engine: EngineThread, asked: GenerationRequest) -> tuple[Job, Listener]:
    listener = Listener()
    return engine.submit(asked, listener.events.put), listener


def hold(model: FakeModel, engine: EngineThread, asked: GenerationRequest) -> tuple[Job, Listener]:
    """Submit a request and stop it within its first pass."""
    model.gate.clear()
    job, listener = submit(engine, asked)
    assert model.at_gate.wait(WAIT)
    return job, listener


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_events_begin_with_started_and_end_with_finished(engine: EngineThread) -> None:
    _, listener = submit(engine, request())
    assert listener.next() == Started(position=0)
    finished = listener.last()
    assert isinstance(finished, Finished)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (3, 4)
    assert engine.seconds_per_token is not None


def test_started_is_told_before_the_prompt_is_computed(model: FakeModel, engine: EngineThread) -> None:
    _, listener = hold(model, engine, request())
    assert listener.next() == Started(position=0)
    assert model.passes == 0


def test_requests_are_answered_in_turn(model: FakeModel, engine: EngineThread) -> None:
    order: list[str] = []
    model.gate.clear()
    done = threading.Event()
    for name in ("first", "second", "third"):

        def deliver(event: Event, name: str = name) -> None:
            if isinstance(event, Finished):
                order.append(name)
                if name == "third":
                    done.set()

        engine.submit(request(), deliver)
        if name == "first":
            assert model.at_gate.wait(WAIT)
    model.gate.set()
    assert done.wait(WAIT)
    assert order == ["first", "second", "third"]


def test_queue_is_bounded_and_a_cancelled_request_leaves_it(model: FakeModel, engine: EngineThread) -> None:
    _, first = hold(model, engine, request())
    waiting, _ = submit(engine, request())
    submit(engine, request())
    with pytest.raises(ApiError) as refused:
        submit(engine, request())
    assert (refused.value.status, refused.value.code) == (503, "queue_full")
    waiting.cancel()
    _, last = submit(engine, request())
    model.gate.set()
    assert isinstance(first.last(), Finished)
    assert isinstance(last.last(), Finished)


def test_cancelled_within_prefill_it_stops_at_the_next_safe_point(model: FakeModel, engine: EngineThread) -> None:
    job, listener = hold(model, engine, request(prompt=600))
    job.cancel()
    model.gate.set()
    ended = listener.last()
    assert isinstance(ended, Failed)
    assert ended.error.status == 499
    assert model.passes == 0
    until(lambda: model.free_pages == 64)


def test_cancelled_while_decoding_it_frees_its_pages(model: FakeModel, engine: EngineThread) -> None:
    job, listener = submit(engine, request(max_tokens=4000))
    assert listener.next() == Started(position=0)
    job.cancel()
    assert isinstance(listener.last(), Failed)
    until(lambda: model.free_pages == 64)
    _, other = submit(engine, request())
    assert isinstance(other.last(), Finished)


def test_idle_thread_carries_out_moves(model: FakeModel, engine: EngineThread) -> None:
    assert model.move_to(3).result(WAIT) == 3
    assert model.move_to(0).result(WAIT) == 0


def test_move_goes_on_within_a_pass(model: FakeModel, engine: EngineThread) -> None:
    _, listener = hold(model, engine, request(max_tokens=1))
    moved = model.move_to(3)
    model.gate.set()
    finished = listener.last()
    assert moved.result(WAIT) == 3
    assert isinstance(finished, Finished)
    assert LAYERS > 3, "one pass has enough safe points for the move"
    usage = finished.usage
    assert (usage.position_start, usage.position_end, usage.position_worst) == (0, 3, 3)


def test_failing_pass_fails_its_request_only(model: FakeModel, engine: EngineThread) -> None:
    model.fail = ArithmeticError("broken")
    _, listener = submit(engine, request())
    ended = listener.last()
    assert isinstance(ended, Failed)
    assert ended.error.status == 500
    _, other = submit(engine, request())
    assert isinstance(other.last(), Finished)
    until(lambda: model.free_pages == 64)


def test_stop_ends_what_runs_and_what_waits_with_the_reason(model: FakeModel, engine: EngineThread) -> None:
    _, running = hold(model, engine, request())
    _, waiting = submit(engine, request())
    engine.stop("good bye")
    model.gate.set()
    for listener in (running, waiting):
        ended = listener.last()
        assert isinstance(ended, Failed)
        assert (ended.error.status, ended.error.message) == (503, "good bye")
    engine.join()
    assert not engine.alive
    with pytest.raises(ApiError, match="good bye"):
        submit(engine, request())
    assert model.free_pages == 64


def test_thread_that_fails_refuses_requests_instead_of_keeping_them(
    model: FakeModel, engine: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(model, "safe_point", broken)
    _, listener = submit(engine, request())
    ended = listener.last()
    assert isinstance(ended, Failed)
    assert ended.error.status == 503
    engine.join()
    assert not engine.alive
    with pytest.raises(ApiError, match="has failed"):
        submit(engine, request())
