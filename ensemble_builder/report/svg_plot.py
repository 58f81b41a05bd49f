"""Line plots as inline SVG: axes with ticks and units, every line labelled where it runs. No library, no script.

Colours, dashes and marks are classes and shapes here; the page's style sheet gives the colours, light and dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from flexquant.ensemble_builder.report.label_placement import Box, Label, place

Points = tuple[tuple[float, float], ...]

WIDTH: Final = 760
HEIGHT: Final = 430
FRAME: Final = Box(64.0, 34.0, WIDTH - 14.0, HEIGHT - 50.0)
LETTER: Final = 7.2
"""Width of a letter of a label, on the safe side."""
MARK: Final = 4.0
"""Half the size of a mark."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot.

    Args:
        label: Its name.
        style: Class that the page gives a colour, such as "greedy"; also chooses its mark.
        points: x falling or rising.
        band: (x, least, most): shaded behind the line; may be empty.
    """

    label: str
    style: str
    points: Points
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """What a plot shows.

    Args:
        title: For screen readers.
        x_label: With its unit.
        y_label: With its unit.
        lines: The first one is drawn widest, under the others.
        level: A horizontal line: its name and where it is; None for none.
        branches: Thin lines with a dot at their end, under the others.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    level: tuple[str, float] | None = None
    branches: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = ()


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers in [low, high], about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(values: Sequence[float]) -> list[str]:
    """Return the ticks' numbers with as few decimals as tell them apart."""
    for decimals in range(10):
        texts = [f"{value:.{decimals}f}" for value in values]
        spread = (values[-1] - values[0]) or 1.0
        if all(abs(float(text) - value) < 1e-6 * spread for text, value in zip(texts, values, strict=True)):
            return texts
    return [f"{value:.3g}" for value in values]


def draw(plot: Plot) -> str:
    """Return the plot as an <svg> element."""
    xs = [x for line in plot.lines for x, _ in line.points]
    ys = [y for line in plot.lines for _, y in line.points]
    ys += [y for line in plot.lines for _, *ends in line.band for y in ends]
    ys += [] if plot.level is None else [plot.level[1]]
    xs += [x for _, (x, _) in plot.branches]
    ys += [y for _, (_, y) in plot.branches]
    scale = _Scale.over(xs, ys)
    pixels = [tuple(scale.at(x, y) for x, y in line.points) for line in plot.lines]
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">',
        f"<title>{escape(plot.title)}</title>",
        *_axes(plot, scale),
    ]
    level = [] if plot.level is None else [_level(plot.level, scale)]
    parts += level
    parts += [_branch(scale.at(*start), scale.at(*end)) for start, end in plot.branches]
    parts += [_band(line, scale) for line in plot.lines if line.band]
    for number, (line, at) in enumerate(zip(plot.lines, pixels, strict=True)):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        wide = " first" if number == 0 else ""
        parts.append(f'<polyline class="line{wide} {line.style}" points="{path}" />')
    for line, at in zip(plot.lines, pixels, strict=True):
        for (x, y), (value_x, value_y) in zip(at, line.points, strict=True):
            told = f"{line.label}: {value_y:.5g} at {value_x:.5g}"
            parts.append(f'<g class="mark {line.style}"><title>{escape(told)}</title>{_mark(line.style, x, y)}</g>')
    wanted = [Label(line.label, LETTER * len(line.label), at) for line, at in zip(plot.lines, pixels, strict=True)]
    for line, found in zip(plot.lines, place(wanted, FRAME), strict=True):
        (from_x, from_y), box = found.anchor, found.box
        to_x, to_y = box.nearest(from_x, from_y)
        ends = f'x1="{from_x:.1f}" y1="{from_y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
        parts.append(f'<line class="leader {line.style}" {ends} />')
        place_at = f'x="{box.left + 2:.1f}" y="{box.bottom - 4:.1f}"'
        parts.append(f'<text class="label {line.style}" {place_at}>{escape(line.label)}</text>')
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    @classmethod
    def over(cls, xs: Sequence[float], ys: Sequence[float]) -> "_Scale":
        """Return a scale that shows all values with some room around them."""
        (low_x, high_x), (low_y, high_y) = (min(xs), max(xs)), (min(ys), max(ys))
        room_x, room_y = 0.03 * (high_x - low_x) or 1.0, 0.06 * (high_y - low_y) or 1.0
        floor = low_y if 0 <= low_y < room_y else low_y - room_y
        return cls(low_x - room_x, high_x + room_x, 0.0 if 0 <= low_y < room_y else floor, high_y + room_y)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a value is drawn."""
        across = (x - self.low_x) / (self.high_x - self.low_x)
        up = (y - self.low_y) / (self.high_y - self.low_y)
        return FRAME.left + across * (FRAME.right - FRAME.left), FRAME.bottom - up * (FRAME.bottom - FRAME.top)


def _axes(plot: Plot, scale: _Scale) -> list[str]:
    parts = []
    values = ticks(scale.low_y, scale.high_y)
    for value, text in zip(values, tick_text(values), strict=True):
        _, y = scale.at(scale.low_x, value)
        parts.append(f'<line class="grid" x1="{FRAME.left}" y1="{y:.1f}" x2="{FRAME.right}" y2="{y:.1f}" />')
        parts.append(f'<text class="tick" text-anchor="end" x="{FRAME.left - 8}" y="{y + 4:.1f}">{text}</text>')
    values = ticks(scale.low_x, scale.high_x, 8)
    for value, text in zip(values, tick_text(values), strict=True):
        x, _ = scale.at(value, scale.low_y)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{FRAME.bottom}" x2="{x:.1f}" y2="{FRAME.bottom + 5}" />')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{FRAME.bottom + 19}">{text}</text>')
    middle = (FRAME.left + FRAME.right) / 2
    return [
        *parts,
        f'<line class="axis" x1="{FRAME.left}" y1="{FRAME.bottom}" x2="{FRAME.right}" y2="{FRAME.bottom}" />',
        f'<text class="axis-name" text-anchor="middle" x="{middle}" y="{HEIGHT - 10}">{escape(plot.x_label)}</text>',
        f'<text class="axis-name" x="6" y="18">{escape(plot.y_label)}</text>',
    ]


def _level(level: tuple[str, float], scale: _Scale) -> str:
    name, value = level
    _, y = scale.at(scale.low_x, value)
    return (
        f'<line class="level" x1="{FRAME.left}" y1="{y:.1f}" x2="{FRAME.right}" y2="{y:.1f}" />'
        f'<text class="tick" x="{FRAME.left + 6}" y="{y + 15:.1f}">{escape(name)}</text>'
    )


def _band(line: Line, scale: _Scale) -> str:
    around = [scale.at(x, most) for x, _, most in line.band] + [scale.at(x, least) for x, least, _ in line.band[::-1]]
    return f'<polygon class="band {line.style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in around)}" />'


def _branch(start: tuple[float, float], end: tuple[float, float]) -> str:
    (from_x, from_y), (to_x, to_y) = start, end
    return (
        f'<line class="branch" x1="{from_x:.1f}" y1="{from_y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" />'
        f'<circle class="twig" cx="{to_x:.1f}" cy="{to_y:.1f}" r="1.8" />'
    )


def _mark(style: str, x: float, y: float) -> str:
    """Each style has a shape of its own, so that lines can be told apart without colours."""
    match style:
        case "greedy" | "ensemble-1":
            corners = [(0, -1.3), (1.2, 0.9), (-1.2, 0.9)]
        case "random" | "ensemble-2":
            corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        case "front-to-back" | "ensemble-3":
            corners = [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)]
        case "back-to-front" | "ensemble-4":
            corners = [(0, 1.3), (1.2, -0.9), (-1.2, -0.9)]
        case "exhaustive" | "ensemble-5":
            corners = [(-0.5, -1.3), (0.5, -1.3), (0.5, 1.3), (-0.5, 1.3)]
        case "ladder":
            corners = [(-1.3, -0.4), (1.3, -0.4), (1.3, 0.4), (-1.3, 0.4)]
        case "whole-model":
            corners = [(-1.3, -1.3), (1.3, -1.3), (0, 0), (1.3, 1.3), (-1.3, 1.3), (0, 0)]
        case "pruned":
            corners = [(-1.3, -0.5), (0, -1.3), (1.3, -0.5), (0.8, 1.2), (-0.8, 1.2)]
        case _:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{MARK}" />'
    points = " ".join(f"{x + MARK * right:.1f},{y + MARK * down:.1f}" for right, down in corners)
    return f'<polygon points="{points}" />'
