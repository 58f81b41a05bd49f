"""Orders of the same stores: permutations that lower every unit variant by variant, between the same two ends."""

from collections import Counter
from pathlib import Path

import pytest

from flexquant.engine.errors import EnsembleError, UsageError
from flexquant.engine.manifest import read_manifest
from flexquant.ensemble_builder.report.orders import (
    BASELINES,
    back_to_front,
    front_to_back,
    own_route,
    parse_orders,
    random_orders,
    route_along,
    units_between,
    whole_model_route,
)
from flexquant.ensemble_builder.sequence import Order, Unit, best, smallest
from support.ensembles import Shape, random_ensemble

UNITS = [Unit("a", (9, 5, 2)), Unit("b", (8,)), Unit("c", (7, 3, 1)), Unit("d", (6, 4))]
STEPS = Counter({0: 2, 2: 2, 3: 1})
ORDERS = [front_to_back(UNITS), back_to_front(UNITS), *random_orders(UNITS, 5, 3)]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_lowers_every_unit_as_often_as_it_has_steps(order: Order) -> None:
    assert Counter(order) == STEPS


@pytest.mark.parametrize("order", ORDERS)
def test_every_route_goes_from_best_to_smallest_one_variant_at_a_time(order: Order) -> None:
    route = route_along("random", UNITS, order, 100)
    assert (route.states[0], route.states[-1]) == (best(UNITS), smallest(UNITS))
    assert (route.footprints[0], route.footprints[-1]) == (130, 115)
    assert all(sum(after) - sum(before) == 1 for before, after in zip(route.states, route.states[1:], strict=False))


def test_front_to_back_lowers_all_to_a_level_before_the_next_level() -> None:
    assert front_to_back(UNITS) == (0, 2, 3, 0, 2)
    assert back_to_front(UNITS) == (3, 2, 0, 2, 0)


def test_random_orders_differ_and_follow_the_seed() -> None:
    orders = random_orders([Unit(str(at), (2, 1)) for at in range(30)], 4, 7)
    assert len(set(orders)) == 4
    assert orders == random_orders([Unit(str(at), (2, 1)) for at in range(30)], 4, 7)
    assert orders != random_orders([Unit(str(at), (2, 1)) for at in range(30)], 4, 8)


def test_the_own_route_of_a_manifest_with_three_levels(tmp_path: Path) -> None:
    manifest = read_manifest(random_ensemble(tmp_path / "made", Shape(layers=1), bits=(8, 4, 3)))
    own = own_route(manifest)
    assert len(own.states) == 17
    assert own.footprints == tuple(manifest.sequences["default"].footprint_bytes)
    units = units_between(manifest, own.states[-1])
    assert route_along("front-to-back", units, front_to_back(units), manifest.fixed_bytes).states == own.states


def test_the_whole_model_goes_from_level_to_level(tmp_path: Path) -> None:
    """A module that the best level has nothing of has its next smaller variant there; ends are the sequence's."""
    manifest = read_manifest(random_ensemble(tmp_path / "made", Shape(layers=1), bits=(8, 4, 3)))
    own = own_route(manifest)
    units = units_between(manifest, own.states[-1])
    assert whole_model_route(manifest, units) is None  # levels of EXL2 are whole models in stores of their own
    first, *others = manifest.modules
    modules = [first.model_copy(update={"variants": first.variants[1:]}), *others]
    planes = manifest.model_copy(update={"method": "any-precision", "modules": modules})
    units = [Unit(units[0].name, units[0].sizes[1:]), *units[1:]]
    whole = whole_model_route(planes, units)
    assert whole is not None
    rest = len(others)
    assert whole.states == ((0,) * (1 + rest), (0, *(1,) * rest), (1, *(2,) * rest))
    assert whole.footprints[-1] == own.footprints[-1]
    assert whole_model_route(planes, [Unit(unit.name, unit.sizes[:2]) for unit in units]) is not None
    assert whole_model_route(planes, [Unit(unit.name, unit.sizes[:1]) for unit in units]) is None


def test_other_orders_end_where_the_sequence_ends(tmp_path: Path) -> None:
    """Here the sequence lowers two modules only, together."""
    moves = [("model.layers.0.self_attn.q_proj", 0, 1), ("lm_head", 0, 1)]
    manifest = read_manifest(random_ensemble(tmp_path / "made", Shape(layers=1), transitions=[moves]))
    own = own_route(manifest)
    units = units_between(manifest, own.states[-1])
    other = route_along("front-to-back", units, front_to_back(units), manifest.fixed_bytes)
    assert (len(own.states), len(other.states)) == (2, 3)
    assert (other.states[-1], other.footprints[-1]) == (own.states[-1], own.footprints[-1])


def test_variants_that_do_not_get_smaller_are_refused(tmp_path: Path) -> None:
    manifest = read_manifest(random_ensemble(tmp_path / "made", Shape(layers=1)))
    module = manifest.modules[0]
    same = module.model_copy(update={"variants": [module.variants[0], module.variants[0]]})
    with pytest.raises(EnsembleError, match=r"q_proj: variants have (\d+), \1 bytes"):
        units_between(manifest.model_copy(update={"modules": [same]}), (1,))


def test_orders_as_a_person_writes_them() -> None:
    assert parse_orders("random, greedy,random") == ("greedy", "random")
    assert parse_orders(",".join(BASELINES)) == BASELINES


@pytest.mark.parametrize("name", ["", "sequence", "Greedy"])
def test_orders_that_do_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match="is no order") as caught:
        parse_orders(f"greedy,{name}")
    assert caught.value.hint is not None
