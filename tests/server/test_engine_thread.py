"""The thread that computes: batches, prompts between the answers, moves while idle, ends of all kinds."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest

from flexquant.engine.errors import KVExhaustedError
from flexquant.engine.segment import Floats, Segment, nothing
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import ApiError
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Cut, Event, Failed, Finished, Started
from support.engine_requests import WAIT, Clock, Listener, hold, request, submit, until
from support.fake_model import DOCS_LLAMA, LAYERS, FakeModel

PAGES = 64


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(PAGES)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def running(model: FakeModel, clock: Clock, *, parallel: int, timeout_s: float | None = None) -> Iterator[EngineThread]:
    tokenizer = Tokenizer.open(DOCS_LLAMA)
    thread = EngineThread(model, tokenizer, parallel=parallel, max_queue=2, timeout_s=timeout_s, clock=clock)
    thread.start()
    yield thread
    model.gate.set()
    thread.stop("the test has ended")
    thread.join()
    assert model.free_pages == PAGES, "every page was given back"


@pytest.fixture
def engine(model: FakeModel, clock: Clock) -> Iterator[EngineThread]:
    yield from running(model, clock, parallel=3)


@pytest.fixture
def one_by_one(model: FakeModel, clock: Clock) -> Iterator[EngineThread]:
    yield from running(model, clock, parallel=1, timeout_s=60)


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
