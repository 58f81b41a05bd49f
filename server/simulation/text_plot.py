"""A plot of values over time, in text."""

from collections.abc import Callable, Sequence
from typing import Final

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
PLAIN_BLOCKS: Final = "  ..::||#"
"""The same for terminals that have ASCII only."""

Pick = Callable[[Sequence[float]], float]


def text_plot(
    title: str,
    points: Sequence[tuple[float, float]],
    top: float,
    *,
    pick: Pick = min,
    width: int = 64,
    height: int = 4,
    blocks: str = BLOCKS,
) -> str:
    """Columns from 0 to `top`, one line per row, the time below.

    Args:
        title: Stands above.
        points: Pairs of seconds and values, in order of time; at least one.
        top: The value at the upper edge; larger ones are cut.
        pick: One value of all that fall into the same column.
        width: In columns.
        height: In rows.
        blocks: Nine characters, from empty to full.
    """
    values = _columns(points, width, pick)
    eighths = [round(8 * height * min(max(value / top, 0.0), 1.0)) if top > 0 else 0 for value in values]
    label = max(len(_number(top)), 1)
    rows = []
    for row in range(height - 1, -1, -1):
        side = _number(top) if row == height - 1 else "0" if row == 0 else ""
        cells = "".join(blocks[min(max(filled - 8 * row, 0), 8)] for filled in eighths)
        rows.append(f"{side:>{label}} |{cells}|")
    first, last = (f"{at - points[0][0]:.0f} s" for at in (points[0][0], points[-1][0]))
    axis = f"{'':{label}}  {first}{last:>{max(width - len(first), 0)}}"
    return "\n".join([title, *rows, axis])


def _columns(points: Sequence[tuple[float, float]], width: int, pick: Pick) -> list[float]:
    """One value per column; a column without a point repeats the one before."""
    begin, span = points[0][0], points[-1][0] - points[0][0]
    held: list[list[float]] = [[] for _ in range(width)]
    for at, value in points:
        column = int((at - begin) / span * width) if span > 0 else 0
        held[min(column, width - 1)].append(value)
    columns: list[float] = []
    for values in held:
        columns.append(pick(values) if values else columns[-1])
    return columns


def _number(value: float) -> str:
    return f"{value:.1f}"
