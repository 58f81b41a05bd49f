"""Whatever becomes of requests, every KV page is in the end either kept for later prompts or given back."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.kv_cache import PageMemory, pages_for
from flexquant.engine.memory.arena import Arena
from flexquant.engine.prefix_cache import PAGE_TOKENS
from flexquant.engine.sampling import SamplingParams
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.api_error import CLIENT_GONE, ApiError
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Event, Failed, Finished, GenerationRequest, Started, Text
from flexquant.server.model_source import DEMO, resolve

WAIT = 60.0
CONTEXT = 1024
PAGES = 40
"""Few: sequences wait for each other's pages, and what is kept for later has to go."""
PARALLEL = 4
SUBMITTERS = 6
JOBS = 12
"""For each of them."""


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return Ensemble.open(resolve(DEMO))


@pytest.fixture
def model(ensemble: Ensemble) -> Iterator[ElasticModel]:
    loaded = ElasticModel.load(ensemble, kv_pages=PAGES, context=CONTEXT)
    yield loaded
    loaded.close()


@pytest.fixture
def engine(model: ElasticModel, ensemble: Ensemble) -> Iterator[EngineThread]:
    thread = EngineThread(
        model, Tokenizer.open(ensemble.tokenizer_folder), parallel=PARALLEL, max_queue=12, timeout_s=WAIT
    )
    thread.start()
    yield thread
    thread.stop("the test has ended")
    thread.join()


@dataclass
class Listener:
    """Hears what becomes of a job, and checks that it is told in order."""

    sequences: int
    ended: threading.Event = field(default_factory=threading.Event)
    error: ApiError | None = None
    wrong: list[str] = field(default_factory=list)
    _started: set[int] = field(default_factory=set)
    _finished: set[int] = field(default_factory=set)

    def __call__(self, number: int, event: Event) -> None:
        if self.error is not None or number in self._finished:
            self.wrong.append(f"{event} after the end of {number}")
        match event:
            case Started():
                self._started.add(number)
            case Text():
                if number not in self._started:
                    self.wrong.append(f"{event} before the start of {number}")
            case Finished():
                self._finished.add(number)
            case Failed():
                self.error = event.error
        if self.error is not None or len(self._finished) == self.sequences:
            self.ended.set()


def prompt(rng: random.Random) -> list[int]:
    """Of any length; most begin like others."""
    length = rng.choice([rng.randint(1, 200), rng.randint(1, CONTEXT - 40)])
    start = rng.choice([100, 100, 900])
    shared = [start + place % 1000 for place in range(rng.randint(0, length))]
    return shared + [rng.randint(64, 2047) for _ in range(length - len(shared))]


def requests(rng: random.Random) -> list[GenerationRequest]:
    """One or two prompts with one to three choices each."""
    found: list[GenerationRequest] = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        tokens, exact = prompt(rng), rng.random() < 0.5
        most = min(rng.choice([0, 1, 8, 40, 200]), CONTEXT - len(tokens))
        sampling = SamplingParams(temperature=rng.choice([0.0, 1.0]), seed=rng.randint(0, 9))
        stops = rng.choice([(), (), ("e",)])
        for _ in range(rng.choice([1, 1, 2, 3])):
            found.append(
                GenerationRequest(
                    tokens,
                    most,
                    sampling,
                    stops,
                    ignore_eos=rng.random() < 0.5,
                    exact=exact,
                    logprobs=rng.choice([None, 2]),
                    echo=rng.random() < 0.3,
                )
            )
    return found


@dataclass
class Crowd:
    """Submits jobs from several threads and gives up some of them, at any moment."""

    engine: EngineThread
    answered: int = 0
    refused: int = 0
    given_up: int = 0
    exhausted: int = 0
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, seed: int) -> None:
        """Until all jobs have ended."""
        threads = [
            threading.Thread(target=self._submit_some, args=(random.Random(f"{seed}/{number}"),))
            for number in range(SUBMITTERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.wrong

    def _submit_some(self, rng: random.Random) -> None:
        try:
            for _ in range(JOBS):
                self._one(rng)
        except BaseException as error:
            self.wrong.append(repr(error))
            raise

    def _one(self, rng: random.Random) -> None:
        asked = requests(rng)
        listener = Listener(len(asked))
        try:
            job = self.engine.submit(asked, listener)
        except ApiError as refusal:
            if refusal.code != "queue_full":
                raise
            with self._lock:
                self.refused += 1
            time.sleep(0.05)
            return
        gives_up = rng.random() < 0.4
        if gives_up and not listener.ended.wait(rng.choice([0.0, 0.02, 0.3]) * rng.random()):
            job.cancel()
            # One that waits may be forgotten without a word.
            listener.ended.wait(0.2 * rng.random())
        elif not listener.ended.wait(WAIT):
            self.wrong.append(f"{len(asked)} sequences have not ended")
        with self._lock:
            self.wrong += listener.wrong
            if listener.error is None:
                self.answered += listener.ended.is_set()
                self.given_up += not listener.ended.is_set()
            elif listener.error.status == CLIENT_GONE and gives_up:
                self.given_up += 1
            elif listener.error.code == "kv_cache_exhausted":
                self.exhausted += 1
            else:
                self.wrong.append(f"{listener.error.status} {listener.error.message}")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def assert_no_page_is_leaked(model: ElasticModel, engine: EngineThread) -> None:
    """Nobody asks any more: wait until the engine thread rests, and count."""
    until(lambda: engine.running == engine.waiting == 0, "sequences are left")
    cache = model._cache  # no public way tells what is reserved and what is kept
    assert cache.free_pages == cache.pages, "a reservation is left"

    def adds_up() -> bool:
        kept = list(cache._prefixes.pages())  # as above
        held = sum(page.memory.mapped_bytes for page in kept)
        alone = all(page.users == 1 for page in kept) and len(kept) <= cache.pages
        return alone and model.resident_bytes().kv == cache.reusable_bytes == held

    # A drop that was ordered before may still be under way: it comes to an idle engine thread, too.
    until(adds_up, "a page is held by a sequence, or is not on the books")
    model.drop_reusable()
    model.on_ready()  # an idle engine thread comes to a safe point
    until(lambda: model.resident_bytes().kv == 0, "pages are left that are not in the prefix cache")
    assert len(cache._prefixes) == 0  # as above


class Mover:
    """Sends the model from position to position while others ask."""

    def __init__(self, model: ElasticModel, seed: int) -> None:
        self._model = model
        self._rng = random.Random(seed)
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._move)
        self.moves = 0

    def __enter__(self) -> "Mover":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._model.move_to(0).result(WAIT)

    def _move(self) -> None:
        while not self._enough.wait(self._rng.uniform(0.05, 0.3)):
            if self._rng.random() < 0.3:
                self._model.drop_reusable()
            self._model.move_to(self._rng.randint(0, self._model.max_position)).result(WAIT)
            self.moves += 1


def test_no_page_is_leaked(model: ElasticModel, engine: EngineThread) -> None:
    crowd = Crowd(engine)
    with Mover(model, seed=0) as mover:
        crowd.run(seed=1)
    assert mover.moves > 0
    assert crowd.answered > 0
    assert crowd.given_up > 0
    assert crowd.exhausted == 0, "there was always someone who would free pages"
    assert_no_page_is_leaked(model, engine)


def test_no_page_is_leaked_when_the_system_has_no_memory_for_some(model: ElasticModel, engine: EngineThread) -> None:
    rng = random.Random(0)

    def allocate(nbytes: int) -> PageMemory:
        if rng.random() < 0.1:
            raise MemoryError("none left")
        return Arena(nbytes)

    model._cache._allocate = allocate  # ElasticModel.load has no parameter for it
    crowd = Crowd(engine)
    crowd.run(seed=0)
    assert crowd.exhausted > 0
    assert crowd.answered > 0
    assert_no_page_is_leaked(model, engine)


def test_no_page_is_leaked_when_the_engine_stops(model: ElasticModel, engine: EngineThread) -> None:
    rng = random.Random(0)
    listeners: list[Listener] = []
    while len(listeners) < 6:
        asked = requests(rng)[:2]
        listeners.append(Listener(len(asked)))
        engine.submit(asked, listeners[-1])
    until(lambda: engine.running == PARALLEL or any(listener.ended.is_set() for listener in listeners), "nothing runs")
    engine.stop("stopped by the test")
    engine.join()
    assert all(listener.ended.is_set() for listener in listeners)
    cache = model._cache  # as above
    assert cache.free_pages == cache.pages
    assert model.resident_bytes().kv == cache.reusable_bytes
    model.drop_reusable()
    model.safe_point()  # the engine thread has ended: this one takes its place
    assert model.resident_bytes().kv == 0


def test_a_page_is_as_large_as_the_books_say(model: ElasticModel, engine: EngineThread) -> None:
    tokens = 3 * PAGE_TOKENS + 1
    listener = Listener(1)
    engine.submit([GenerationRequest(list(range(100, 100 + tokens)), 2, SamplingParams(temperature=0))], listener)
    assert listener.ended.wait(WAIT)
    until(lambda: engine.running == 0, "it is left")
    kept = model.resident_bytes().kv
    assert kept > 0
    assert kept == 3 * model._cache.page_bytes  # as above
    assert pages_for(tokens) == 4, "the last page was not full, so it was not kept"
    assert_no_page_is_leaked(model, engine)
