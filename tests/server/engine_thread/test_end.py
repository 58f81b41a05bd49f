"""The thread that computes, stopped, drained and failing: everybody hears of it."""

import pytest

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Cut, Failed, Finished, Started
from support.engine_requests import Clock, hold, request, submit
from support.fake_model import DOCS_LLAMA, FakeModel


def test_stop_ends_what_runs_and_what_waits_with_the_reason(model: FakeModel, one_by_one: EngineThread) -> None:
    _, runs = hold(model, one_by_one, request())
    _, waits = submit(one_by_one, request())
    one_by_one.stop("good bye")
    model.gate.set()
    for listener in (runs, waits):
        ended = listener.last()
        assert isinstance(ended, Failed)
        assert (ended.error.status, ended.error.message) == (503, "good bye")
    one_by_one.join()
    with pytest.raises(ApiError, match="good bye"):
        submit(one_by_one, request())
    one_by_one.check_health()


def test_drain_ends_what_waits_and_lets_finish_what_runs(model: FakeModel, one_by_one: EngineThread) -> None:
    _, runs = hold(model, one_by_one, request(), request())
    _, waits = submit(one_by_one, request())
    one_by_one.drain("good bye")
    with pytest.raises(ApiError, match="good bye") as refused:
        submit(one_by_one, request())
    assert refused.value.code == "stopping"
    assert refused.value.headers == {"retry-after": "1"}
    assert one_by_one.waiting == 2
    model.gate.set()
    told = waits.last()
    assert isinstance(told, Failed)
    assert (told.error.status, told.error.code) == (503, "stopping")
    # The second sequence of the request that runs is a part of it.
    assert all(isinstance(ended, Finished) for ended in runs.outcomes(2))


def test_drain_of_an_idle_thread_and_stop_after_it(engine: EngineThread) -> None:
    engine.drain("good bye")
    engine.check_health()
    with pytest.raises(ApiError, match="good bye"):
        engine.check()
    engine.stop("at last")
    engine.join()


def test_who_is_cut_hears_first_what_it_took(model: FakeModel, one_by_one: EngineThread) -> None:
    _, listener = hold(model, one_by_one, request(prompt=3), request(prompt=3))
    one_by_one.stop("good bye")
    model.gate.set()
    assert isinstance(listener.next(), Started)
    cut = listener.next()
    assert isinstance(cut, Cut), "of the sequence that has begun alone"
    assert cut.usage.prompt_tokens == 3
    assert isinstance(listener.next(), Failed)


def test_thread_that_fails_refuses_requests_instead_of_keeping_them(
    model: FakeModel, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    engine = EngineThread(model, Tokenizer.open(DOCS_LLAMA), parallel=1, max_queue=2, clock=clock)
    engine.start()
    monkeypatch.setattr(model, "safe_point", broken)
    _, listener = submit(engine, request())
    ended = listener.last()
    assert isinstance(ended, Failed)
    assert ended.error.status == 503
    engine.join()
    with pytest.raises(ApiError, match="has failed"):
        submit(engine, request())
    with pytest.raises(ApiError, match="has failed"):
        engine.check_health()
