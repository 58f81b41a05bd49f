"""Plain words about areas: they must say where the sequence does not win."""

from dataclasses import replace

import pytest

from flexquant.ensemble_builder.report.findings import methods_of, percent, verdicts
from flexquant.ensemble_builder.report.measure import Curve, Point
from flexquant.ensemble_builder.report.orders import Route
from support.window_figures import figures


def curve(method: str, middle: float, draw: int | None = None, *, windows: tuple[float, ...] = (1.0,)) -> Curve:
    """Three positions: KL 0, `middle` and 0.1; `windows` are factors of the middle one in each window."""
    between = (1, 0) if method == "sequence" else (0, 1)
    route = Route(method, draw, ((0, 0), between, (1, 1)), (100, 50, 0))
    found = [
        figures(10, *(0.0 for _ in windows)),
        figures(10 + middle, *(middle * factor for factor in windows)),
        figures(11, *(0.1 for _ in windows)),
    ]
    points = [Point(at, size, quality) for at, (size, quality) in enumerate(zip((100, 50, 0), found, strict=True))]
    return Curve(route, tuple(points))


def test_what_may_be_chance_is_said() -> None:
    """Which is better changes from window to window, or is the same in all of them."""
    own = curve("sequence", 0.02, windows=(1.0, 1.0, 1.0, 1.0))
    [unsure] = verdicts(methods_of([own, curve("greedy", 0.021, windows=(1.4, 0.6, 1.4, 0.6))], 1))
    assert "on another text it may be the other way round" in unsure
    [sure] = verdicts(methods_of([own, curve("greedy", 0.03, windows=(1.0, 1.1, 0.9, 1.0))], 1))
    assert "Over the windows of the text its area is 1.1" in sure
    assert "other way round" not in sure


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        (0.02, "Greedy by sensitivity has the same area under KL as the ensemble's sequence: the search wins nothing"),
        (
            0.0201,
            "has 0.14 % more area under KL than the ensemble's sequence: practically equal; it has the lower KL at 0",
        ),
        (
            0.0199,
            "has 0.14 % less area under KL than the ensemble's sequence: practically equal; it has the lower KL at 1",
        ),
        (0.03, "has 14 % more area under KL than the ensemble's sequence; it has the lower KL at 0 of 1"),
        (0.01, "has 14 % less area under KL than the ensemble's sequence: the sequence does not win here"),
    ],
)
def test_who_wins_and_by_how_much(middle: float, said: str) -> None:
    [sentence] = verdicts(methods_of([curve("sequence", 0.02), curve("greedy", middle)], 1))
    assert said in sentence


def test_what_the_measured_positions_cannot_tell_is_not_decided() -> None:
    """Of twelve positions three were measured; the curves bend, so the area over all of them may differ."""
    sparse = [
        Curve(replace(found.route, states=found.route.states * 4), found.points)
        for found in (curve("sequence", 0.02), curve("greedy", 0.0201), curve("random", 0.09, 0))
    ]
    close, far = verdicts(methods_of(sparse, 1))
    assert close.startswith(
        "Greedy by sensitivity cannot be told from the ensemble's sequence: the areas differ by 0.14 %"
    )
    assert close.endswith("Measure more with --points.")
    assert "100 % more area" in far


def test_the_same_order_is_called_that() -> None:
    own = curve("sequence", 0.02)
    [sentence] = verdicts(methods_of([own, replace(own, route=replace(own.route, method="greedy"))], 1))
    assert "is the same order as the ensemble's sequence: the search wins nothing over it" in sentence


def test_what_the_whole_model_at_one_width_costs_in_steps_is_said() -> None:
    """0.1 below the middle, and 0.02 above it: 0.06 in the mean, where the sequence has 0.035."""
    [sentence] = verdicts(methods_of([curve("sequence", 0.02), curve("whole-model", 0.02)], 1))
    assert sentence.startswith("The whole model at one width has the same area under KL")
    assert "where the next smaller one is taken instead, its area is 1.71x the sequence's." in sentence
    [other] = verdicts(methods_of([curve("sequence", 0.02), curve("greedy", 0.03)], 1))
    assert "next smaller" not in other


def test_no_comparison_with_an_area_that_is_not_above_zero() -> None:
    [sentence] = verdicts(methods_of([curve("sequence", -0.06), curve("greedy", 0.01)], 1))
    assert sentence.startswith("Greedy by sensitivity: not compared")


def test_draws_are_gathered_into_mean_and_range() -> None:
    found = methods_of([curve("sequence", 0.02), curve("random", 0.04, 0), curve("random", 0.06, 1)], 1)
    assert [method.label for method in found] == ["the ensemble's sequence", "random, mean of 2"]
    random = found[1]
    assert random.area == pytest.approx(0.05)
    assert random.area_range == pytest.approx((0.045, 0.055))
    assert random.kl == pytest.approx((0, 0.05, 0.1))
    assert random.kl_range[1] == pytest.approx((0.04, 0.06))
    assert random.perplexity_range[1] == pytest.approx((10.04, 10.06))


@pytest.mark.parametrize(("share", "text"), [(0.00174, "0.17 %"), (0.021, "2.1 %"), (0.854, "85 %"), (2.5, "250 %")])
def test_shares_as_a_person_reads_them(share: float, text: str) -> None:
    assert percent(share) == text
