"""A small ensemble of two levels, and a model at its best position."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from support.ensembles import random_ensemble


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_ensemble(tmp_path_factory.mktemp("elastic") / "two-levels")


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> Ensemble:
    return Ensemble.open(folder)


@pytest.fixture
def model(ensemble: Ensemble) -> Iterator[ElasticModel]:
    model = ElasticModel.load(ensemble, kv_pages=8)
    yield model
    model.close()


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))
