"""Engine threads with a model that computes nothing, and waits where a test says so."""

from collections.abc import Iterator

import pytest

from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.engine_thread import EngineThread
from support.engine_requests import PAGES, Clock
from support.fake_model import DOCS_LLAMA, FakeModel


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
