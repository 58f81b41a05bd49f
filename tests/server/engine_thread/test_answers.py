"""The thread that computes: batches, prompts between the answers, moves while idle, requests that fail."""

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from flexquant.engine.segment import Floats, Segment, nothing
from flexquant.server.api_error import ApiError
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Event, Failed, Finished, Started
from support.engine_requests import PAGES, WAIT, Clock, Listener, hold, request, submit, until
from support.fake_model import LAYERS, FakeModel


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


def test_answers_under_way_share_their_passes(model: FakeModel, engine: EngineThread) -> None:
    _, first = hold(model, engine, request(max_tokens=30))
    others = [submit(engine, request(max_tokens=30))[1] for _ in range(2)]
    model.gate.set()
    for listener in (first, *others):
        assert isinstance(listener.last(), Finished)
    assert model.rows.count([1, 1, 1]) >= 15
    assert max(len(rows) for rows in model.rows) == 3


def test_no_more_than_the_allowed_run_together(model: FakeModel, engine: EngineThread) -> None:
    _, listener = hold(model, engine, *[request(max_tokens=40)] * 5)
    model.gate.set()
    assert all(isinstance(ended, Finished) for ended in listener.outcomes(5))
    assert max(len(rows) for rows in model.rows) == 3


def test_requests_are_answered_in_turn(model: FakeModel, one_by_one: EngineThread) -> None:
    order: list[str] = []
    model.gate.clear()
    done = threading.Event()
    for name in ("first", "second", "third"):

        def deliver(_: int, event: Event, name: str = name) -> None:
            if isinstance(event, Finished):
                order.append(name)
                if name == "third":
                    done.set()

        one_by_one.submit([request()], deliver)
        if name == "first":
            assert model.at_gate.wait(WAIT)
    model.gate.set()
    assert done.wait(WAIT)
    assert order == ["first", "second", "third"]


def test_choices_are_numbered_and_wait_for_the_first_ones_prompt(model: FakeModel, engine: EngineThread) -> None:
    listener = Listener()
    engine.submit([request(prompt=300)] * 3, listener.deliver)
    ended: dict[int, Finished] = {}
    started: list[int] = []
    while len(ended) < 3:
        number, event = listener.events.get(timeout=WAIT)
        if isinstance(event, Started):
            started.append(number)
        elif isinstance(event, Finished):
            ended[number] = event
    assert started == [0, 1, 2]
    assert model.rows[:2] == [[256], [44]], "the first prompt is in before another begins"


def test_answers_go_on_between_the_layers_of_a_long_prompt(model: FakeModel, engine: EngineThread) -> None:
    _, talking = hold(model, engine, request(max_tokens=200))
    _, long = submit(engine, request(prompt=1000, max_tokens=2))
    model.gate.set()
    assert isinstance(long.last(), Finished)
    chunks = [at for at, rows in enumerate(model.rows) if rows == [256]]
    assert len(chunks) == 3
    # The clock stands still, so a pass is always due: one at every safe point of a chunk, and one before it.
    assert all(later - sooner == 1 + LAYERS + 1 for sooner, later in pairwise(chunks))
    assert isinstance(talking.last(), Finished)


def test_a_prompt_gets_its_share_of_the_time(model: FakeModel, engine: EngineThread, clock: Clock) -> None:
    """Decode passes take a second each, layers of a chunk half a second: every second layer lets the others go on."""
    waits: list[int] = []
    forward = model.forward

    def timed(segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        decode = all(len(segment.tokens) == 1 for segment in segments)

        def layer() -> None:
            if not decode:
                clock.now += 0.5
            safe_point()

        logits = forward(segments, layer)
        if decode:
            clock.now += 1.0
        else:
            waits.append(len(segments[0].tokens))
        return logits

    model.forward = timed  # type: ignore[method-assign]
    _, talking = hold(model, engine, request(max_tokens=100))
    _, long = submit(engine, request(prompt=600, max_tokens=1))
    model.gate.set()
    assert isinstance(long.last(), Finished)
    assert waits == [3, 256, 256, 88]
    first, second = (at for at, rows in enumerate(model.rows) if rows == [256])
    assert second - first == 1 + LAYERS // 2 + 1
    assert isinstance(talking.last(), Finished)


def test_queue_is_bounded_and_a_cancelled_request_leaves_it(model: FakeModel, one_by_one: EngineThread) -> None:
    _, first = hold(model, one_by_one, request())
    waiting, _ = submit(one_by_one, request())
    submit(one_by_one, request())
    with pytest.raises(ApiError) as refused:
        submit(one_by_one, request())
    assert (refused.value.status, refused.value.code) == (503, "queue_full")
    waiting.cancel()
    _, last = submit(one_by_one, request())
    model.gate.set()
    assert isinstance(first.last(), Finished)
    assert isinstance(last.last(), Finished)


def test_all_sequences_of_a_request_are_taken_or_none(model: FakeModel, one_by_one: EngineThread) -> None:
    hold(model, one_by_one, request())
    with pytest.raises(ApiError, match="--max-queue"):
        submit(one_by_one, *[request()] * 3)
    assert one_by_one.waiting == 0
    submit(one_by_one, *[request()] * 2)
    assert (one_by_one.waiting, one_by_one.running) == (2, 1)


def test_cancelled_within_prefill_it_stops_at_the_next_safe_point(model: FakeModel, engine: EngineThread) -> None:
    job, listener = hold(model, engine, request(prompt=600))
    job.cancel()
    model.gate.set()
    ended = listener.last()
    assert isinstance(ended, Failed)
    assert ended.error.status == 499
    assert model.passes == 0
    until(lambda: model.free_pages == PAGES)


def test_cancelled_while_decoding_it_frees_its_pages(model: FakeModel, engine: EngineThread) -> None:
    job, listener = submit(engine, request(max_tokens=4000))
    assert listener.next() == Started(position=0)
    job.cancel()
    assert isinstance(listener.last(), Failed)
    until(lambda: model.free_pages == PAGES)
    _, other = submit(engine, request())
    assert isinstance(other.last(), Finished)


def test_cancelled_while_another_prompt_goes_in_it_ends_between_two_layers(
    model: FakeModel, engine: EngineThread
) -> None:
    forward = model.forward
    passes: list[tuple[list[int], int]] = []

    def cancelling(segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        rows = [len(segment.tokens) for segment in segments]
        if rows == [256]:
            job.cancel()
        logits = forward(segments, safe_point)
        if job.cancelled.is_set():
            passes.append((rows, model.free_pages))
        return logits

    model.forward = cancelling  # type: ignore[method-assign]
    job, talking = hold(model, engine, request(max_tokens=3000))
    _, long = submit(engine, request(prompt=600))
    model.gate.set()
    assert isinstance(long.last(), Finished)
    assert isinstance(talking.last(), Failed)
    assert passes[0] == ([256], PAGES - 10), "its pages were free before the chunk was through"


def test_time_that_is_over_ends_what_runs_and_what_waits(
    model: FakeModel, one_by_one: EngineThread, clock: Clock
) -> None:
    _, runs = hold(model, one_by_one, request(prompt=600))
    _, waits = submit(one_by_one, request())
    clock.now += 61
    model.gate.set()
    for listener in (runs, waits):
        ended = listener.last()
        assert isinstance(ended, Failed)
        assert (ended.error.status, ended.error.code) == (504, "timeout")
        assert "60 s" in ended.error.message
    _, other = submit(one_by_one, request())
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
    until(lambda: model.free_pages == PAGES)


def test_a_sequence_that_fails_takes_its_request_along_even_within_a_prompts_pass(
    model: FakeModel, engine: EngineThread
) -> None:
    """The choice that decodes fails between two layers of its sibling's prompt, whose pages are in use just then."""
    forward, free = model.forward, []

    def failing(segments: Sequence[Segment], safe_point: Callable[[], None] = nothing) -> Floats:
        if [len(segment.tokens) for segment in segments] == [1]:
            raise ArithmeticError("broken")
        logits = forward(segments, safe_point)
        free.append(model.free_pages)
        return logits

    model.forward = failing  # type: ignore[method-assign]
    _, other = hold(model, engine, request(prompt=5, first=80), request(prompt=600, first=90))
    model.gate.set()
    assert isinstance(other.last(), Failed)
    until(lambda: model.free_pages == PAGES)
    assert other.events.empty(), "a request fails once"
