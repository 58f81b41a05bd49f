"""Units of several kinds over the same modules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import Module, Variant
from flexquant.ensemble_builder.sequence import best, smallest
from flexquant.ensemble_builder.units import KINDS, Kind, Units, manifest_unit, parse_kinds, units_of
from support.tiny_model import tiny_config

LEVELS = ("8.0", "4.0", "2.0")


def module(linear: str, columns: tuple[int, int] | None, levels: tuple[str, ...]) -> Module:
    name = linear if columns is None else f"{linear}[{columns[0]}:{columns[1]}]"
    variants = [Variant(level=level, tensors=[], bytes=int(10 * float(level)) + len(name)) for level in levels]
    return Module(name=name, linear=linear, columns=columns, in_features=32, out_features=32, variants=variants)


def modules(*, cut: bool) -> list[Module]:
    """Return a model's modules. The head has no variant in the middle; down projections may be in two slices."""
    found = []
    for shape in tiny_config(layers=2).linears():
        levels = ("8.0", "2.0") if shape.layer is None else LEVELS
        slices = ((0, 32), (32, 64)) if cut and "down" in shape.key else (None,)
        found += [module(shape.key, columns, levels) for columns in slices]
    return found


def names(kind: Kind, *, cut: bool = False) -> list[str]:
    return [unit.name for unit in units_of(modules(cut=cut), LEVELS, kind).units]


def test_kinds_of_units() -> None:
    assert len(names("projection")) == 15
    assert len(names("projection", cut=True)) == 17
    assert names("projection", cut=True)[6:8] == [
        "model.layers.0.mlp.down_proj[0:32]",
        "model.layers.0.mlp.down_proj[32:64]",
    ]
    for cut in (False, True):
        layers = ["model.layers.0", "model.layers.1"]
        blocks = [f"{layer}.{block}" for layer in layers for block in ("self_attn", "mlp")]
        assert names("block", cut=cut) == [*blocks, "lm_head"]
        assert names("layer", cut=cut) == [*layers, "lm_head"]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.booleans(), st.data())
def test_a_state_of_units_is_a_state_of_modules_of_the_same_size(kind: Kind, cut: bool, data: st.DataObject) -> None:
    all_modules = modules(cut=cut)
    found = units_of(all_modules, LEVELS, kind)
    state = tuple(data.draw(st.integers(0, unit.steps)) for unit in found.units)
    variants = found.modules_at(state)
    stored = sum(module.variants[at].bytes for module, at in zip(all_modules, variants, strict=True))
    assert stored == sum(unit.sizes[at] for unit, at in zip(found.units, state, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_lead_from_the_best_to_the_smallest_variants(kind: Kind) -> None:
    all_modules = modules(cut=True)
    found: Units = units_of(all_modules, LEVELS, kind)
    assert found.modules_at(best(found.units)) == (0,) * len(all_modules)
    assert found.modules_at(smallest(found.units)) == tuple(len(module.variants) - 1 for module in all_modules)


def test_a_unit_goes_down_level_by_level() -> None:
    found = units_of(modules(cut=False), LEVELS, "layer")
    assert [unit.steps for unit in found.units] == [2, 2, 1]
    assert found.variants[0] == ((0,) * 7, (1,) * 7, (2,) * 7)


def test_modules_of_different_variants_move_together_where_they_can() -> None:
    some = [module("a.b.q", None, LEVELS), module("a.b.k", None, ("8.0", "2.0"))]
    found = units_of(some, LEVELS, "block")
    assert found.variants == (((0, 0), (1, 0), (2, 1)),)


def test_what_the_manifest_calls_them() -> None:
    assert manifest_unit(modules(cut=False), "projection") == "projection"
    assert manifest_unit(modules(cut=True), "projection") == "slice"
    assert manifest_unit(modules(cut=True), "block") == "block"


def test_kinds_are_named_once_and_the_first_is_first() -> None:
    assert parse_kinds([]) == ("projection",)
    assert parse_kinds(["block,projection", "layer"]) == ("block", "projection", "layer")
    with pytest.raises(UsageError, match="'row' is no unit"):
        parse_kinds(["row"])
    with pytest.raises(UsageError, match="'block' is named twice"):
        parse_kinds(["block", "block"])
