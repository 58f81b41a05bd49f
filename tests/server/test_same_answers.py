"""The same request, seed and position: the same text alone and in company, with and without a kept beginning."""

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.generation import Generation
from flexquant.engine.sampling import SamplingParams
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Event, Failed, Finished, GenerationRequest, Text
from flexquant.server.job import Deliver
from support.ensembles import Shape, random_ensemble

WAIT = 60.0
MIXES = 200
SYSTEM = [5 + token * 7 % 250 for token in range(150)]
"""A beginning that many prompts share: more than two pages."""


class Server:
    """A real model, and the thread that owns it."""

    def __init__(self, folder: Path, compute: str) -> None:
        ensemble = Ensemble.open(folder)
        self._tokenizer = Tokenizer.open(ensemble.tokenizer_folder)
        self.model = ElasticModel.load(ensemble, kv_pages=96, compute=choose_compute(compute, 2))
        self.engine = EngineThread(self.model, self._tokenizer, parallel=8, max_queue=8)
        self.engine.start()
        self._alone: dict[tuple[object, ...], str] = {}

    def close(self) -> None:
        self.engine.stop("the test has ended")
        self.engine.join()
        self.model.close()

    def ask(self, requests: Sequence[GenerationRequest]) -> list[tuple[str, int]]:
        """Text and cached tokens of each request, all of them handed over at once."""
        events: queue.Queue[tuple[int, Event]] = queue.Queue()

        def listener(number: int) -> Deliver:
            return lambda _, event: events.put((number, event))

        for number, request in enumerate(requests):
            self.engine.submit([request], listener(number))
        texts, cached, open_ = [""] * len(requests), [0] * len(requests), len(requests)
        while open_:
            number, event = events.get(timeout=WAIT)
            assert not isinstance(event, Failed), event
            if isinstance(event, Text):
                texts[number] += event.text
            elif isinstance(event, Finished):
                cached[number] = event.usage.cached_tokens
                open_ -= 1
        return list(zip(texts, cached, strict=True))

    def alone(self, request: GenerationRequest, position: int) -> str:
        """The answer of a thread that has served nobody else: nothing is kept, nothing shared."""
        key = (tuple(request.prompt), request.max_tokens, request.sampling, position)
        if key not in self._alone:
            self.forget()
            ((text, cached),) = self.ask([request])
            assert cached == 0
            self._alone[key] = text
        return self._alone[key]

    def forget(self) -> None:
        """Drop what is kept for later prompts."""
        self.model.drop_reusable()
        self.ask([GenerationRequest([3], 1, SamplingParams(seed=1))])  # one safe point later it is gone

    def go_to(self, position: int) -> None:
        assert self.model.move_to(position).result(WAIT) == position


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "tiny"
    random_ensemble(path, Shape(context=1024))
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder, "auto")
    yield server
    server.close()


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    shared = draw(st.sampled_from([0, 64, 128, 150]))
    own = draw(st.integers(1, 12))
    prompt = SYSTEM[:shared] + [6 + draw(st.integers(0, 3))] * own
    seed = draw(st.one_of(st.none(), st.integers(0, 3)))
    sampling = (
        SamplingParams(temperature=0.0)
        if seed is None
        else SamplingParams(
            temperature=1.5,
            seed=seed,
            min_p=0.001,
            frequency_penalty=0.5,
            repetition_penalty=1.1,
            logit_bias=((70, 5.0),),
        )
    )
    return GenerationRequest(prompt, draw(st.sampled_from([2, 9, 20])), sampling, ignore_eos=True)


@settings(deadline=None, max_examples=MIXES, suppress_health_check=[HealthCheck.too_slow])
@given(
    mix=st.lists(requests(), min_size=8, max_size=8),
    at=st.integers(0, 3),
    forget=st.booleans(),
)
def test_company_and_kept_beginnings_change_no_text(
    server: Server, mix: list[GenerationRequest], at: int, *, forget: bool
) -> None:
    position = at * server.model.max_position // 3
    if server.model.position != position:
        server.go_to(position)
        server.forget()  # what was computed at other positions may be used, and gives another text
    expected = [server.alone(request, position) for request in mix]
    if forget:
        server.forget()
    assert [text for text, _ in server.ask(mix)] == expected
    again = server.ask(mix)
    assert [text for text, _ in again] == expected
    whole_pages = [(len(request.prompt) - 1) // 64 * 64 for request in mix]
    assert [cached for _, cached in again] == whole_pages


def test_plain_torch_keeps_whole_chunks_of_prompts_alone(folder: Path) -> None:
    server = Server(folder, "torch")
    try:
        prompt = [5 + token * 11 % 250 for token in range(700)]
        request = GenerationRequest(prompt, 12, SamplingParams(temperature=0.0), ignore_eos=True)
        expected = server.alone(request, 0)
        ((text, cached),) = server.ask([request])
        assert (text, cached) == (expected, 512)
    finally:
        server.close()


def test_pinned_requests_use_only_what_was_computed_at_their_position(server: Server) -> None:
    prompt = SYSTEM + [9] * 60
    server.go_to(0)
    server.forget()
    request = GenerationRequest(prompt, 4, SamplingParams(temperature=0.0))
    pinned = GenerationRequest(prompt, 4, SamplingParams(temperature=0.0), exact=True)
    server.ask([request])
    server.go_to(server.model.max_position)
    assert server.ask([pinned])[0][1] == 0
    assert server.ask([pinned])[0][1] == 192, "newer pages have taken the place of the older ones"
    server.go_to(0)
    assert server.ask([pinned])[0][1] == 0
    server.go_to(server.model.max_position)
    assert server.ask([request])[0][1] == 192, "in auto mode any position will do"


def test_generation_and_engine_thread_give_the_same_tokens(server: Server, folder: Path) -> None:
    """The thread adds nothing of its own to the engine's answer."""
    server.go_to(0)
    prompt = SYSTEM[:70]
    text = server.alone(GenerationRequest(prompt, 16, SamplingParams(seed=11), ignore_eos=True), 0)
    ensemble = Ensemble.open(folder)
    model = ElasticModel.load(ensemble, kv_pages=8, compute=choose_compute("auto", 2))
    try:
        with Generation(model, prompt, max_tokens=16, sampling=SamplingParams(seed=11), ignore_eos=True) as generation:
            while generation.finished is None:
                generation.step()
            stream = Tokenizer.open(ensemble.tokenizer_folder).stream()
            assert "".join(stream.push(token) for token in generation.generated) + stream.flush() == text
    finally:
        model.close()
