"""The thread that computes when pages are short: who waits, who goes, who is told."""

from collections.abc import Callable, Sequence

import pytest

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.segment import Floats, Segment, nothing
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Failed, Finished
from support.engine_requests import PAGES, hold, request, submit, until
from support.fake_model import FakeModel


def test_without_memory_for_a_page_kept_ones_go_first_and_then_the_youngest_answer(
    model: FakeModel, engine: EngineThread
) -> None:
    _, old = hold(model, engine, request(max_tokens=30))
    _, young = submit(engine, request(max_tokens=30, first=71))
    forward, short = model.forward, [2]

    def starved(segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        if len(segments) == 2 and short[0]:
            short[0] -= 1
            raise KVExhaustedError("the system has no memory for another KV page")
        return forward(segments, safe_point)

    model.forward = starved  # type: ignore[method-assign]
    model.gate.set()
    ended = young.last()
    assert isinstance(ended, Failed)
    assert (ended.error.status, ended.error.code) == (503, "kv_cache_exhausted")
    assert isinstance(old.last(), Finished)
    assert model.drops >= 1


def test_who_makes_room_takes_its_own_request_along_and_nobody_else(model: FakeModel, engine: EngineThread) -> None:
    _, other = hold(model, engine, request(max_tokens=30))
    _, choices = submit(engine, *[request(max_tokens=30, first=71)] * 2)
    forward, short = model.forward, [2]

    def starved(segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        if len(segments) == 3 and short[0]:
            short[0] -= 1
            raise KVExhaustedError("the system has no memory for another KV page")
        return forward(segments, safe_point)

    model.forward = starved  # type: ignore[method-assign]
    model.gate.set()
    ended = choices.last()
    assert isinstance(ended, Failed)
    assert ended.error.code == "kv_cache_exhausted"
    assert isinstance(other.last(), Finished)


@pytest.mark.parametrize("times", [1, 2])
def test_a_prompt_without_memory_goes_on_when_kept_pages_have_gone(
    model: FakeModel, engine: EngineThread, times: int
) -> None:
    forward, short = model.forward, [times]

    def starved(segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        if short[0]:
            short[0] -= 1
            raise KVExhaustedError("the system has no memory for another KV page")
        return forward(segments, safe_point)

    model.forward = starved  # type: ignore[method-assign]
    _, listener = submit(engine, request(prompt=300))
    assert isinstance(listener.last(), Finished if times == 1 else Failed)
    assert model.drops >= 1


def test_pages_that_can_never_be_free_are_an_error_and_no_wait(model: FakeModel, engine: EngineThread) -> None:
    _, listener = submit(engine, request(prompt=10, max_tokens=(PAGES + 1) * 64))
    ended = listener.last()
    assert isinstance(ended, Failed)
    assert ended.error.code == "kv_cache_exhausted"


def test_what_finds_no_pages_waits_until_others_have_ended(model: FakeModel, engine: EngineThread) -> None:
    _, large = hold(model, engine, request(max_tokens=60 * 64))
    _, other = submit(engine, request(max_tokens=10 * 64))
    job, _ = submit(engine, request(max_tokens=1))
    model.gate.set()
    until(lambda: model.passes > 5)
    assert (engine.running, engine.waiting) == (1, 2), "nobody overtakes for want of memory"
    job.cancel()
    assert isinstance(large.last(), Finished)
    assert isinstance(other.last(), Finished)
