"""What an ensemble would take, computed from the config, is what it takes once it is built."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.compute import choose_compute
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.memory_needs import MemoryNeeds
from flexquant.engine.model_config import read_model_config
from flexquant.ensemble_builder.planned_ensemble import planned_ensemble, stored_bytes
from flexquant.ensemble_builder.report.ladder import module_bytes
from flexquant.server.model_source import demo_folder
from support.daemon import clean_environment
from support.fake_model import DOCS_LLAMA
from support.native_layers import needs_native
from support.planned import assert_same_sizes
from support.tiny_model import tiny_config


@pytest.fixture(scope="module")
def demo() -> Ensemble:
    return Ensemble.open(demo_folder())


@pytest.fixture(scope="module")
def planned() -> Ensemble:
    """The demo, from the unquantized checkpoint's config."""
    return planned_ensemble(read_model_config(DOCS_LLAMA), (8.0, 3.0), group_size=32, name="docs-llama")


def test_the_demo_was_built_as_planned(demo: Ensemble, planned: Ensemble) -> None:
    assert_same_sizes(planned, demo)


def test_a_model_takes_what_was_planned_at_both_ends(demo: Ensemble, planned: Ensemble) -> None:
    compute = choose_compute()
    needs = MemoryNeeds.of(planned, compute)
    model = ElasticModel.load(demo, position=0, kv_pages=1, compute=compute)
    try:
        for position in (0, model.max_position):
            moved = model.move_to(position)
            while not moved.done():
                model.safe_point()
            resident = model.resident_bytes()
            assert resident.mapped == needs.mapped[position]
            assert planned.manifest.fixed_bytes + resident.payload == planned.sequence().footprint_bytes[position]
        assert model.scratch_bytes == sum(needs.scratch.values())
    finally:
        model.close()


def test_files_are_as_large_as_planned(demo: Ensemble) -> None:
    weights = sum(
        record.bytes for name, record in demo.manifest.files.items() if name.endswith("quantized.safetensors")
    )
    planned = stored_bytes(demo.config, (8.0, 3.0), 32) - demo.manifest.embedding_bytes
    assert weights == pytest.approx(planned, rel=0.01)  # headers


@settings(max_examples=30)
@given(
    hidden=st.integers(1, 6).map(lambda n: 32 * n),
    intermediate=st.integers(1, 6).map(lambda n: 32 * n),
    vocab=st.integers(1, 300),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    levels=st.lists(st.sampled_from([8.0, 6.5, 5.0, 4.0, 3.25, 2.0]), min_size=2, max_size=4, unique=True),
    group_size=st.sampled_from([32, 64]),
    max_step=st.none() | st.integers(500, 20000),
    nested=st.booleans(),
)
def test_plans_hold_together(
    hidden: int,
    intermediate: int,
    vocab: int,
    layers: int,
    bias: bool,
    levels: list[float],
    group_size: int,
    max_step: int | None,
    nested: bool,
) -> None:
    levels.sort(reverse=True)
    config = tiny_config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        vocab_size=vocab,
        layers=layers,
        heads=1,
        kv_heads=1,
        head_dim=hidden,
        attention_bias=bias,
    )
    nested = nested and all(high - low >= 2 for high, low in itertools.pairwise(levels))
    found = planned_ensemble(config, levels, group_size=group_size, max_step=max_step, nested=nested)
    footprints = found.sequence().footprint_bytes
    assert len(footprints) == len(found.sequence().transitions) + 1
    assert all(high > low for high, low in itertools.pairwise(footprints))
    for module in found.manifest.modules:
        assert sum(spec.payload for spec in found.specs[module.name][-1:]) == module.variants[-1].bytes
    if max_step is None:
        low = footprints[-1] - found.manifest.fixed_bytes
        assert low <= module_bytes(config, levels[-1], group_size)
        if not nested:
            assert footprints[0] - found.manifest.fixed_bytes == module_bytes(config, levels[0], group_size)
    assert stored_bytes(config, levels, group_size, nested=nested) > footprints[-1] - found.manifest.fixed_bytes


WITHOUT_TORCH = """
import sys
from pathlib import Path
from flexquant.server.estimate.command import main
assert main([sys.argv[1]]) == 0
loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "torch")
assert not loaded, loaded[:3]
"""


@needs_native
def test_an_estimate_needs_no_torch() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(DOCS_LLAMA)], capture_output=True, text=True, env=clean_environment()
    )
    assert ended.returncode == 0, ended.stderr
