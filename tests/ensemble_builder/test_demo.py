"""The embedded demo ensemble: what it promises to users of `--model demo`."""

from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from flexquant.engine.ensemble import Ensemble

DEMO = Path(str(files("flexquant.server"))) / "demo"
MOST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def demo() -> Ensemble:
    return Ensemble.open(DEMO, verify=True)


def test_it_is_small_enough_to_be_embedded() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= MOST_BYTES


def test_the_best_level_is_as_good_as_the_unquantized_model(demo: Ensemble) -> None:
    best = demo.sequence().quality[0]
    assert demo.manifest.evaluation.reference == "unquantized"
    assert best.perplexity == pytest.approx(demo.manifest.evaluation.reference_perplexity, rel=0.005)


def test_quality_falls_with_the_footprint(demo: Ensemble) -> None:
    """Single steps may gain a little; over a tenth of the way there is none of that."""
    losses = [quality.kl for quality in demo.sequence().quality]
    stride = len(losses) // 10
    assert all(before < after for before, after in zip(losses, losses[stride:], strict=False))


def test_every_step_gives_memory_back(demo: Ensemble) -> None:
    footprints = demo.sequence().footprint_bytes
    assert all(before > after for before, after in pairwise(footprints))
    assert footprints[-1] < footprints[0] / 2


def test_its_texts_are_disjoint(demo: Ensemble) -> None:
    assert demo.manifest.quantization is not None
    assert demo.manifest.quantization.calibration.sha256 != demo.manifest.evaluation.text.sha256
