"""Stores, and the modules that they make together."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from flexquant.engine.model_config import read_model_config
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.stores import (
    Store,
    embedding_bytes,
    level_of,
    modules_of,
    norm_bytes,
    open_store,
    parameter_count,
)
from support.ensembles import Shape, random_ensemble

DOCS_LLAMA = Path(__file__).parent.parent / "assets" / "docs-llama"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    levels = random_ensemble(tmp_path_factory.mktemp("made"), Shape(layers=1), bits=(8, 4, 2)) / "levels"
    return [open_store(levels / f"{bits:.1f}", f"{bits:.1f}", bits) for bits in (8, 4, 2)]


def test_one_module_per_linear_layer_in_forward_order(stores: list[Store]) -> None:
    modules = modules_of(stores)
    assert [module.name for module in modules] == [shape.key for shape in stores[0].config.linears()]
    for module in modules:
        assert [variant.level for variant in module.variants] == ["8.0", "4.0", "2.0"]
        for variant, store in zip(module.variants, stores, strict=True):
            assert variant.bytes == sum(store.index[name].nbytes for name in variant.tensors)
            assert all(name.startswith(f"{module.linear}.") for name in variant.tensors)


def test_slices_cover_each_layer_and_no_step_is_larger_than_asked(stores: list[Store]) -> None:
    most = 3000
    whole = {module.linear: module for module in modules_of(stores)}
    modules = modules_of(stores, most)
    assert len(modules) > len(whole)
    covered: dict[str, int] = {}
    for module in modules:
        first, last = module.columns or (0, module.out_features)
        assert covered.get(module.linear, 0) == first
        assert module.out_features == last - first
        assert module.name == (module.linear if module.columns is None else f"{module.linear}[{first}:{last}]")
        covered[module.linear] = last
        for variant, uncut in zip(module.variants, whole[module.linear].variants, strict=True):
            assert (variant.level, variant.tensors) == (uncut.level, uncut.tensors)
        steps = [high.bytes - low.bytes for high, low in pairwise(module.variants)]
        assert max(steps) <= most or module.out_features == 32
    assert covered == {linear: module.out_features for linear, module in whole.items()}


def test_a_variant_that_gives_nothing_back_is_left_out(stores: list[Store]) -> None:
    high, middle, low = stores
    middle = replace(middle, specs={**middle.specs, "lm_head": high.specs["lm_head"]})
    head = modules_of([high, middle, low])[-1]
    assert [variant.level for variant in head.variants] == ["8.0", "2.0"]
    assert [variant.level for variant in modules_of([high, middle])[-1].variants] == ["8.0"]


def test_bits_per_weight_count_everything_that_is_stored(stores: list[Store]) -> None:
    level = level_of(stores[1])
    assert (level.name, level.bits, level.store) == ("4.0", 4.0, "levels/4.0")
    assert 4.0 < level.bits_per_weight < 5.0
    weights = sum(shape.in_features * shape.out_features for shape in stores[1].config.linears())
    assert level.bits_per_weight == pytest.approx(8 * stores[1].module_bytes / weights, abs=1e-4)


def test_bytes_that_no_position_changes(stores: list[Store]) -> None:
    config = stores[0].config
    assert norm_bytes(stores[0]) == 2 * config.hidden_size * (2 * config.layers + 1)
    assert embedding_bytes(stores[0]) == 2 * config.hidden_size * config.vocab_size


def test_parameters_of_a_checkpoint_with_a_tied_head() -> None:
    index = TensorIndex.open(DOCS_LLAMA)
    stored = sum(math.prod(index[name].shape) for name in index.names())
    assert parameter_count(read_model_config(DOCS_LLAMA)) == stored
