"""The scene as an SVG file, light and dark: memory above, tokens per second below, one axis of time."""

from collections.abc import Sequence
from html import escape
from typing import Final

from bench.live_picture.scene import Scene
from flexquant.ensemble_builder.report.svg_plot import tick_text, ticks

WIDTH: Final = 860
LEFT: Final = 58
RIGHT: Final = WIDTH - 20
MEMORY: Final = (64, 268)
"""Top and bottom of the upper panel."""
TOKENS: Final = (318, 408)
HEIGHT: Final = 494
BIN_S: Final = 2.0
"""Tokens are counted over this span."""
MB: Final = 1e6

_STYLE: Final = """
svg { --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --grid: #e6e9ed; --edge: #d0d7de;
  --daemon: #0067a8; --other: #8a8f96; --tokens: #b84a00; }
@media (prefers-color-scheme: dark) { svg { --paper: #14171b; --ink: #e6e9ed; --soft: #9aa5b1; --grid: #262c33;
  --edge: #3a424c; --daemon: #56b4e9; --other: #7d858e; --tokens: #f08c3a; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--soft); }
.name { fill: var(--ink); font-weight: 600; }
.paper { fill: var(--paper); stroke: var(--edge); }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); }
.moment { stroke: var(--soft); stroke-dasharray: 3 4; }
.daemon { fill: none; stroke: var(--daemon); stroke-width: 2.5; stroke-linejoin: round; }
.other { fill: var(--other); fill-opacity: 0.35; stroke: var(--other); }
.tokens { fill: var(--tokens); fill-opacity: 0.25; stroke: var(--tokens); stroke-width: 1.5; stroke-linejoin: round; }
.said-daemon { fill: var(--daemon); font-weight: 600; }
.said-tokens { fill: var(--tokens); font-weight: 600; }
"""

Points = Sequence[tuple[float, float]]


def draw(scene: Scene, conditions: Sequence[str]) -> str:
    """The whole file.

    Args:
        scene: What was seen.
        conditions: Two lines below the picture: model and machine.
    """
    end = max(at for at, _ in scene.daemon)
    daemon = [(at, held / MB) for at, held in scene.daemon]
    other = [(at, held / MB) for at, held in scene.other]
    rates = per_second(scene.tokens, end)
    memory = _Panel(MEMORY, end, max(held for _, held in [*daemon, *other]))
    tokens = _Panel(TOKENS, end, max(rate for _, rate in rates))
    gave = max(held for at, held in daemon if at <= scene.took) - min(held for _, held in daemon)
    told = (
        f"Memory of the daemon and of another program, and tokens per second, over {end:.0f} seconds. The other one "
        f"takes {max(held for _, held in other):.0f} MB; the daemon gives {gave:.0f} MB back, goes on answering, and "
        "grows back after the other one has left."
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(told)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" />',
            *memory.axes(),
            *tokens.axes(),
            *_time_axis(tokens),
            *_moment(memory, tokens, scene.took, "another program takes memory"),
            *_moment(memory, tokens, scene.left, "it leaves"),
            _area("other", memory, other),
            _line("daemon", memory, daemon),
            _area("tokens", tokens, rates),
            '<text class="name" x="14" y="26">MB of memory: <tspan class="said-daemon">FlexQuant</tspan>, and another '
            "program (grey)</text>",
            f'<text class="name" x="14" y="{TOKENS[0] - 16}"><tspan class="said-tokens">tokens per second</tspan>, '
            "one conversation</text>",
            *(
                f'<text x="14" y="{HEIGHT - 34 + 18 * line}">{escape(told)}</text>'
                for line, told in enumerate(conditions)
            ),
            "</svg>\n",
        ]
    )


def per_second(tokens: Sequence[float], end: float) -> list[tuple[float, float]]:
    """Tokens per second in whole spans of BIN_S: each is told at its middle."""
    counts = [0] * int(end / BIN_S)
    for at in tokens:
        if at < len(counts) * BIN_S:
            counts[int(at / BIN_S)] += 1
    return [((number + 0.5) * BIN_S, count / BIN_S) for number, count in enumerate(counts)]


class _Panel:
    """From values to pixels; the vertical axis begins at 0.

    Args:
        rows: Its top and bottom.
        end: Last second.
        most: Largest value.
    """

    def __init__(self, rows: tuple[int, int], end: float, most: float) -> None:
        self.top, self.bottom = rows
        self.end = end
        self._most = 1.08 * most or 1.0

    def x(self, at: float) -> float:
        """Of a second."""
        return LEFT + (RIGHT - LEFT) * at / self.end

    def y(self, value: float) -> float:
        """Of a value."""
        return self.bottom - (self.bottom - self.top) * value / self._most

    def axes(self) -> list[str]:
        """Horizontal lines with their values."""
        values = ticks(0.0, self._most, 4)
        parts = []
        for value, text in zip(values, tick_text(values), strict=True):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" />')
            parts.append(f'<text text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{text}</text>')
        return [*parts, f'<line class="axis" x1="{LEFT}" y1="{self.bottom}" x2="{RIGHT}" y2="{self.bottom}" />']


def _time_axis(panel: _Panel) -> list[str]:
    values = ticks(0.0, panel.end, 8)
    return [
        f'<text text-anchor="middle" x="{panel.x(value):.1f}" y="{panel.bottom + 18}">{text} s</text>'
        for value, text in zip(values, tick_text(values), strict=True)
    ]


def _moment(upper: _Panel, lower: _Panel, at: float, what: str) -> list[str]:
    x = upper.x(at)
    rows = [(upper.top - 14, upper.bottom), (lower.top, lower.bottom)]
    return [
        *(f'<line class="moment" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" />' for top, bottom in rows),
        f'<text x="{x + 5:.1f}" y="{upper.top - 4}">{escape(what)}</text>',
    ]


def _path(panel: _Panel, points: Points) -> str:
    return " ".join(f"{panel.x(at):.1f},{panel.y(value):.1f}" for at, value in points)


def _line(style: str, panel: _Panel, points: Points) -> str:
    return f'<polyline class="{style}" points="{_path(panel, points)}" />'


def _area(style: str, panel: _Panel, points: Points) -> str:
    first, last = points[0][0], points[-1][0]
    return f'<polygon class="{style}" points="{_path(panel, [(first, 0.0), *points, (last, 0.0)])}" />'
