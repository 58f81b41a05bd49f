"""Scheduler, answers and controller's facade over a model on a (fake) card: nothing of them knows the difference."""

import logging
import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import UnsupportedModelError, UsageError
from flexquant.engine.exllamav2 import open as card
from flexquant.engine.placement import HOST
from flexquant.engine.sampling import SamplingParams
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.elastic_facade import ElasticFacade
from flexquant.server.elastic_state import Quality
from flexquant.server.engine_thread import EngineThread
from flexquant.server.generation_request import Event, Failed, Finished, GenerationRequest
from flexquant.server.settings import load_settings
from flexquant.server.startup import choose_device, make_monitor
from support.ensembles import Shape, random_ensemble
from support.fake_card import FakeCard, FakeSetUp

WAIT = 60.0


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return Ensemble.open(random_ensemble(tmp_path_factory.mktemp("served") / "tiny", Shape(layers=2, context=1024)))


@pytest.fixture
def model(ensemble: Ensemble) -> Iterator[ElasticModel]:
    compute = FakeSetUp().compute()
    model = ElasticModel.load(ensemble, kv_pages=64, compute=compute, placement=compute.placement(ensemble))
    yield model
    model.close()


@pytest.fixture
def engine(model: ElasticModel, ensemble: Ensemble) -> Iterator[EngineThread]:
    engine = EngineThread(model, Tokenizer.open(ensemble.tokenizer_folder), parallel=4, max_queue=8)
    engine.start()
    yield engine
    engine.stop("the test has ended")
    engine.join()


def test_requests_are_answered_while_the_controller_moves_the_model(model: ElasticModel, engine: EngineThread) -> None:
    facade = ElasticFacade(model, [Quality(1.0, 0.0)] * (model.max_position + 1), lambda: engine.seconds_per_token)
    events: queue.Queue[Event] = queue.Queue()
    prompts = [[5 + n] * (3 + 100 * n) for n in range(4)]
    for prompt in prompts:
        request = GenerationRequest(prompt, 40, SamplingParams(temperature=0.0), ignore_eos=True)
        engine.submit([request], lambda _, event: events.put(event))
    for position in (model.max_position, 0, 5):
        assert facade.request_position(position, urgent=position == 0).result(WAIT) == position
        assert facade.position == position
    finished = 0
    while finished < len(prompts):
        event = events.get(timeout=WAIT)
        assert not isinstance(event, Failed)
        if isinstance(event, Finished):
            finished += 1
            assert event.usage.completion_tokens == 40
    assert model.last_error is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"head_norms": True}, "norms of query and key heads"), ({"rotary_dim": 8}, "rotated in part")],
)
def test_families_that_only_the_cpu_runs(
    changes: dict[str, Any],
    what: str,
    ensemble: Ensemble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Refused where the card was asked for; a card that is merely there is left alone, and the log says why."""
    family = replace(ensemble, config=replace(ensemble.config, **changes))
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        FakeSetUp().compute().placement(family)
    assert "--device cpu" in (caught.value.hint or "")
    monkeypatch.setattr(card, "card_is_there", lambda: True)
    with caplog.at_level("WARNING"):
        compute, placement = choose_device(load_settings(["--model", "demo"]), family)
    assert placement is HOST
    assert compute.name != "exllamav2"
    assert what in caplog.text


def test_a_gpu_that_is_not_there_is_an_error_and_auto_does_without(ensemble: Ensemble) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="cannot run on a GPU here"):
        choose_device(load_settings(["--model", "demo", "--device", "cuda"]), ensemble)
    compute, placement = choose_device(
        load_settings(["--model", "demo", "--kernels", "torch", "--threads", "1"]), ensemble
    )
    assert compute.name == "torch"
    assert placement.available() > 0
    with pytest.raises(UsageError, match="device"):
        load_settings(["--model", "demo", "--device", "tpu"])


def test_auto_computes_slices_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("flexquant.engine.exllamav2.open.card_is_there", lambda: True)
    cuts = {"model.layers.0.mlp.up_proj": (32,)}
    sliced = Ensemble.open(random_ensemble(tmp_path / "sliced", Shape(layers=1), cuts=cuts))
    compute, placement = choose_device(load_settings(["--model", "demo", "--threads", "1"]), sliced)
    assert placement is HOST
    assert compute.name in caplog.text
    assert "exllamav2 runs whole layers only" in caplog.text


def test_memory_of_the_card_is_what_has_to_suffice(ensemble: Ensemble) -> None:
    fakes = FakeSetUp(FakeCard(total=1000, used=400))
    card = fakes.compute().placement(ensemble).card
    monitor = make_monitor(load_settings(["--model", "demo", "--memory-budget", "500"]), card)
    assert [(found.source, found.available) for found in monitor.read().memory] == [("cuda", 600), ("budget", 100)]
    assert fakes.compute().placement(ensemble).private() == 400
    fakes.card.integrated = True
    assert fakes.compute().placement(ensemble).card is None
    assert fakes.compute().placement(ensemble).private() > 400, "the host's memory counts, too"
    assert "host" in make_monitor(load_settings(["--model", "demo"]), None).names
