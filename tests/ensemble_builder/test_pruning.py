"""Pruning: what leaves the disk, and what that is predicted to cost."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.ensemble_builder.pruning import End, mean_loss, predicted_curve, predicted_losses, prune, pruned_units
from flexquant.ensemble_builder.sensitivity import Sensitivity, greedy_order
from flexquant.ensemble_builder.sequence import Unit, area, best, footprint, smallest, states_along


def drawn(seed: int, count: int, variants: int) -> tuple[list[Unit], Sensitivity]:
    """Units of random sizes with random costs."""
    rng = random.Random(seed)
    units, costs = [], []
    for index in range(count):
        sizes = sorted(rng.sample(range(1, 1000), variants), reverse=True)
        units.append(Unit(str(index), tuple(sizes)))
        costs.append(tuple(rng.uniform(0.0, 1.0) for _ in sizes[1:]))
    return units, tuple(costs)


models = st.builds(drawn, st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 3))
ends = st.sampled_from(["smallest", "best"])


def predicted_area(units: list[Unit], sensitivity: Sensitivity, kept: Sequence[Sequence[int]]) -> float:
    """Over the range that nothing was dropped from."""
    low, up = footprint(units, smallest(units)), footprint(units, best(units))
    return mean_loss(*predicted_curve(units, sensitivity, kept), low, up)


def losses_along(units: list[Unit], sensitivity: Sensitivity, order: tuple[int, ...]) -> list[float]:
    return [
        sum(sum(costs[:variant]) for costs, variant in zip(sensitivity, state, strict=True))
        for state in states_along(units, order)
    ]


@given(models)
def test_the_area_of_what_is_whole_is_that_of_greedy(model: tuple[list[Unit], Sensitivity]) -> None:
    units, sensitivity = model
    order = greedy_order(units, sensitivity)
    footprints = [footprint(units, state) for state in states_along(units, order)]
    whole = [range(len(unit.sizes)) for unit in units]
    expected = area(footprints, losses_along(units, sensitivity, order))
    assert predicted_area(units, sensitivity, whole) == pytest.approx(expected)


@given(models, ends, st.data())
def test_what_is_promised_stays_and_enough_goes(
    model: tuple[list[Unit], Sensitivity], keep: End, data: st.DataObject
) -> None:
    units, sensitivity = model
    most = sum(unit.steps for unit in units) - 1
    wanted = data.draw(st.integers(0, most))
    pruned = prune(units, sensitivity, keep, least_variants=wanted)
    dropped = [
        (unit, variant)
        for unit, (whole, left) in enumerate(zip(units, pruned.kept, strict=True))
        for variant in range(len(whole.sizes))
        if variant not in left
    ]
    assert pruned.dropped_variants == len(dropped) == wanted
    assert pruned.dropped_bytes == sum(units[unit].sizes[variant] for unit, variant in dropped)
    end = -1 if keep == "smallest" else 0
    left = pruned_units(units, pruned.kept)
    assert all(mine.sizes[end] == whole.sizes[end] for mine, whole in zip(left, units, strict=True))
    assert any(unit.steps for unit in left)


@given(models, ends)
def test_too_much_is_refused(model: tuple[list[Unit], Sensitivity], keep: End) -> None:
    units, sensitivity = model
    with pytest.raises(ValueError, match="dropped"):
        prune(units, sensitivity, keep, least_variants=sum(unit.steps for unit in units))
    with pytest.raises(ValueError, match="dropped"):
        prune(units, sensitivity, keep, least_bytes=sum(sum(unit.sizes) for unit in units))


@given(models, st.data())
def test_predicted_losses_keep_what_whole_ways_cost(model: tuple[list[Unit], Sensitivity], data: st.DataObject) -> None:
    units, sensitivity = model
    kept = [sorted(data.draw(st.sets(st.sampled_from(range(len(unit.sizes))), min_size=1))) for unit in units]
    base, costs = predicted_losses(sensitivity, kept)
    for before, after, left in zip(sensitivity, costs, kept, strict=True):
        assert sum(after) == pytest.approx(sum(before[left[0] : left[-1]]))
    assert base == pytest.approx(sum(sum(before[: left[0]]) for before, left in zip(sensitivity, kept, strict=True)))


@pytest.mark.parametrize("seed", range(20))
def test_a_choice_is_close_to_the_best_one(seed: int) -> None:
    """Against every choice that drops as many bytes, on a small model of two levels."""
    units, sensitivity = drawn(seed, 8, 2)
    wanted = sum(unit.sizes[0] for unit in units) // 3
    pruned = prune(units, sensitivity, "smallest", least_bytes=wanted)
    best = min(
        predicted_area(units, sensitivity, [(1,) if gone else (0, 1) for gone in choice])
        for choice in itertools.product([False, True], repeat=len(units))
        if sum(unit.sizes[0] for unit, gone in zip(units, choice, strict=True) if gone) >= wanted
    )
    whole = predicted_area(units, sensitivity, [(0, 1)] * len(units))
    assert best - 1e-9 <= predicted_area(units, sensitivity, pruned.kept) <= best + 0.3 * whole


def test_the_cheapest_go_first_and_the_end_of_the_sequence_last() -> None:
    units = [Unit(str(index), (200, 100)) for index in range(4)]
    sensitivity = ((1.0,), (4.0,), (2.0,), (3.0,))
    assert prune(units, sensitivity, "smallest", least_variants=1).kept == ((1,), (0, 1), (0, 1), (0, 1))
    assert prune(units, sensitivity, "smallest", least_variants=2).kept == ((1,), (0, 1), (1,), (0, 1))
    assert prune(units, sensitivity, "best", least_variants=1).kept == ((0, 1), (0,), (0, 1), (0, 1))
    assert prune(units, sensitivity, "best", least_variants=2).kept == ((0, 1), (0,), (0, 1), (0,))


def test_a_variant_between_two_others_goes_before_one_that_is_needed_at_an_end() -> None:
    units = [Unit("a", (300, 200, 100)), Unit("b", (300, 200, 100))]
    sensitivity = ((1.0, 1.01), (5.0, 10.0))
    (kept,) = {prune(units, sensitivity, "smallest", least_variants=1).kept}
    assert kept == ((0, 2), (0, 1, 2))
    assert smallest(pruned_units(units, kept)) == (1, 2)


def test_mean_loss_cuts_the_range_and_stays_at_the_best_above_it() -> None:
    footprints, losses = [100, 60, 20], [1.0, 3.0, 11.0]
    assert mean_loss(footprints, losses, 20, 100) == pytest.approx(area(footprints, losses))
    assert mean_loss(footprints, losses, 60, 100) == pytest.approx(2.0)
    assert mean_loss(footprints, losses, 80, 120) == pytest.approx((1.0 + 1.5) / 2)
    assert mean_loss(footprints, losses, 40, 50) == pytest.approx(6.0)
    assert mean_loss(footprints, losses, 100, 200) == pytest.approx(1.0)
