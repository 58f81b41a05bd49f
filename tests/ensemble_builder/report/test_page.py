"""What the page says depends on what was measured."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from flexquant.engine.ensemble import Ensemble
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.report.collect import Options, report_on
from flexquant.ensemble_builder.report.page import page
from support.ensembles import Shape, random_ensemble


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("made") / "<three> & more"
    return Ensemble.open(random_ensemble(folder, Shape(layers=1, context=32), bits=(8, 4, 3)))


@pytest.fixture
def said(ensemble: Ensemble, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The page's text for (orders, positions between the ends)."""
    orders, between = request.param
    text = tmp_path / "report.txt"
    text.write_text("Sphinx of black quartz, judge my vow. " * 2)
    options = Options(text, checkpoint=None, windows=1, orders=orders, between=between, draws=1, seed=4)
    root = ElementTree.fromstring(page(report_on(ensemble, {}, options, Progress())))
    return " ".join("".join(root.itertext()).split())


@pytest.mark.parametrize("said", [(("front-to-back",), 99)], indirect=True)
def test_every_position_of_three_levels(said: str) -> None:
    assert "<three> & more: 8, 4 and 3 bits" in said
    assert "Marks are every position." in said
    assert "linear between them" not in said
    assert "Random orders" not in said
    assert "shaded band" not in said
    # This ensemble's own sequence goes from front to back.
    assert "Front to back is the same order as the ensemble's sequence" in said


@pytest.mark.parametrize("said", [(("random",), 2)], indirect=True)
def test_some_positions_and_a_single_draw(said: str) -> None:
    assert "About 2 positions between the ends were measured per order." in said
    assert "Random orders have seed 4." in said
    assert "KL is measured from position 0, because the unquantized model was not given." in said
    assert "what they were calibrated on is not known" in said
    assert "not recorded" in said
    assert "random, draw 1" in said
