"""Plain words on whether the search wins."""

import pytest

from flexquant.ensemble_builder.compare.contents import against_greedy, ratio_text
from flexquant.ensemble_builder.report.findings import Method, methods_of
from flexquant.ensemble_builder.report.measure import Curve, Point
from flexquant.ensemble_builder.report.orders import Route
from support.window_figures import figures


def method(name: str, *middle: float, via: tuple[int, int] = (0, 1)) -> Method:
    """Three positions: KL 0, `middle` in each window, and 0.1."""
    route = Route(name, None, ((0, 0), via, (1, 1)), (100, 50, 0))
    ends = (0.0,) * len(middle), (0.1,) * len(middle)
    found = [figures(10, *kl) for kl in (ends[0], middle, ends[1])]
    points = [Point(at, size, quality) for at, (size, quality) in enumerate(zip((100, 50, 0), found, strict=True))]
    return methods_of([Curve(route, tuple(points))], 1)[0]


GREEDY = method("greedy", 0.04, 0.05, 0.06, 0.05)


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        ((0.03, 0.04, 0.05, 0.04), "The search beats greedy by sensitivity: its area under KL is 0.9000x greedy's"),
        ((0.05, 0.06, 0.07, 0.06), "The search loses to greedy by sensitivity: its area under KL is 1.1000x greedy's"),
        ((0.05, 0.04, 0.05, 0.06), "Between the search and greedy by sensitivity this text does not decide"),
        ((0.04, 0.05, 0.06, 0.05001), "The search wins nothing over greedy by sensitivity, and loses nothing"),
    ],
)
def test_who_wins_is_said_with_its_interval(middle: tuple[float, ...], said: str) -> None:
    sentence = against_greedy(method("sequence", *middle, via=(1, 0)), GREEDY)
    assert sentence.startswith(said)
    assert "95 % interval" in sentence


def test_the_same_order_neither_wins_nor_loses_and_one_window_tells_nothing() -> None:
    assert "greedy's own order" in against_greedy(method("sequence", 0.04, 0.05), method("greedy", 0.04, 0.05))
    alone = against_greedy(method("sequence", 0.04, via=(1, 0)), method("greedy", 0.05))
    assert alone == "One window of text cannot tell whether the search beats greedy by sensitivity (0.9000x)."


def test_areas_that_are_not_above_zero_are_not_compared() -> None:
    assert "not compared" in against_greedy(method("sequence", -0.2, -0.2, via=(1, 0)), GREEDY)
    assert ratio_text(GREEDY, method("random", -0.2, -0.2, -0.2, -0.2)) == ""
    assert ratio_text(GREEDY, None) == ""
