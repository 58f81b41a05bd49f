"""An engine thread that has nothing to compute carries out the moves of a nested model, which no loader prepares."""

from collections.abc import Iterator

import pytest

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.tokenizer import Tokenizer
from flexquant.server.elastic_facade import ElasticFacade
from flexquant.server.elastic_state import Quality
from flexquant.server.engine_thread import EngineThread
from support.ensembles import Shape, random_ensemble

WAIT = 30.0


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("nested") / "tiny"
    return Ensemble.open(random_ensemble(folder, Shape(layers=2), bits=(8, 4), nested=True))


@pytest.fixture
def model(ensemble: Ensemble) -> Iterator[ElasticModel]:
    model = ElasticModel.load(ensemble, kv_pages=8, compute=choose_compute("auto", 1))
    yield model
    model.close()


@pytest.fixture
def engine(model: ElasticModel, ensemble: Ensemble) -> Iterator[EngineThread]:
    engine = EngineThread(model, Tokenizer.open(ensemble.tokenizer_folder), parallel=1, max_queue=1)
    engine.start()
    yield engine
    engine.stop("the test has ended")
    engine.join()


@pytest.mark.parametrize("budget_s", [None, 0.0])
def test_moves_of_an_idle_model_end(model: ElasticModel, engine: EngineThread, budget_s: float | None) -> None:
    for position in (model.max_position, 0, 5, model.max_position):
        assert model.move_to(position, budget_s=budget_s).result(WAIT) == position == model.position


def test_the_facade_moves_it(model: ElasticModel, engine: EngineThread) -> None:
    facade = ElasticFacade(model, [Quality(1.0, 0.0)] * (model.max_position + 1), lambda: engine.seconds_per_token)
    for position in (model.max_position, 0):
        assert facade.request_position(position, urgent=position != 0).result(WAIT) == position
