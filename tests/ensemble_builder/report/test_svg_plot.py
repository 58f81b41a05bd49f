"""Plots as SVG: well-formed, complete, with round ticks."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from flexquant.ensemble_builder.report.svg_plot import HEIGHT, WIDTH, Line, Plot, draw, tick_text, ticks

LINES = (
    Line("the <own> one", "sequence", ((6.7, 0.0), (5, 0.01), (3, 0.05))),
    Line("greedy", "greedy", ((6.7, 0.0), (5, 0.012), (3, 0.05))),
    Line("random", "random", ((6.7, 0.0), (5, 0.03), (3, 0.05)), ((6.7, 0, 0), (5, 0.02, 0.09), (3, 0.05, 0.05))),
)
PLOT = Plot("KL & footprint", "MB", "nats", LINES, ("unquantized: 0.07", 0.07))


def test_every_line_is_drawn_marked_and_labelled() -> None:
    root = ElementTree.fromstring(draw(PLOT))
    assert [line.get("class") for line in root.iter("polyline")] == [
        "line first sequence",
        "line greedy",
        "line random",
    ]
    labels = [text.text for text in root.iter("text") if "label" in str(text.get("class"))]
    assert labels == ["the <own> one", "greedy", "random"]
    marks = [mark.get("class") for mark in root.iter("g")]
    assert [marks.count(f"mark {line.style}") for line in LINES] == [3, 3, 3]
    assert sum("band" in str(shape.get("class")) for shape in root.iter("polygon")) == 1
    texts = [text.text for text in root.iter("text")]
    assert {"MB", "nats", "unquantized: 0.07"} <= set(texts)


def test_nothing_is_drawn_outside_the_picture() -> None:
    root = ElementTree.fromstring(draw(PLOT))
    points = [
        pair.split(",")
        for shape in [*root.iter("polyline"), *root.iter("polygon")]
        for pair in str(shape.get("points")).split()
    ]
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points)


def test_more_is_higher_and_more_memory_is_further_right() -> None:
    root = ElementTree.fromstring(draw(PLOT))
    line = next(root.iter("polyline"))
    points = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    assert all(right > left for (right, _), (left, _) in pairwise(points))
    assert all(lower > higher for (_, lower), (_, higher) in pairwise(points))


def test_a_plot_without_any_spread() -> None:
    flat = Plot("flat", "MB", "nats", (Line("flat", "sequence", ((1.0, 2.0), (1.0, 2.0))),))
    assert ElementTree.fromstring(draw(flat)).tag == "svg"


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 0.05, ["0.00", "0.01", "0.02", "0.03", "0.04", "0.05"]),
        (14.7, 15.5, ["14.8", "15.0", "15.2", "15.4"]),
        (2.9, 6.9, ["3", "4", "5", "6"]),
        (-1, 1, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        (9000, 61000, ["10000", "20000", "30000", "40000", "50000", "60000"]),
        (5, 5, ["5"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    assert tick_text(ticks(low, high)) == texts
