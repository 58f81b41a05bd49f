"""A small ensemble of two levels, and a model of it on a fake card."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from support.ensembles import Shape, random_ensemble
from support.fake_card import FakeSetUp

Load = Callable[..., ElasticModel]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Every layer has an order of its own, as in checkpoints that were quantized elsewhere."""
    return Ensemble.open(random_ensemble(tmp_path_factory.mktemp("card") / "two-levels", Shape(context=2048)))


@pytest.fixture
def fakes() -> FakeSetUp:
    return FakeSetUp()


@pytest.fixture
def load(ensemble: Ensemble, fakes: FakeSetUp) -> Iterator[Load]:
    """Loads models; those that a test leaves are closed, and then nothing may be left on the card."""
    models: list[ElasticModel] = []

    def on_card(found: Ensemble = ensemble, *, position: int = 0, kv_pages: int = 16) -> ElasticModel:
        compute = fakes.compute()
        model = ElasticModel.load(
            found, position=position, kv_pages=kv_pages, compute=compute, placement=compute.placement(found)
        )
        models.append(model)
        return model

    yield on_card
    for model in models:
        model.close()
    assert fakes.card.used == 0


@pytest.fixture
def model(load: Load) -> ElasticModel:
    return load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ensemble"
