"""Characters that pictures are made of: finer ones where the terminal has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set.

    Args:
        full: The filled part of a bar.
        empty: The rest of it.
        heights: Of a column, from the lowest to the highest; even the lowest can be seen.
    """

    full: str
    empty: str
    heights: str

    def bar(self, share: float, cells: int) -> tuple[str, str]:
        """The filled and the empty part of a bar; `share` is 0 to 1."""
        filled = round(min(max(share, 0.0), 1.0) * cells)
        return self.full * filled, self.empty * (cells - filled)

    def columns(self, values: Sequence[float], cells: int, low: float, high: float) -> str:
        """The last `cells` values as columns between `low` and `high`."""
        top = len(self.heights) - 1
        span = high - low
        return "".join(
            self.heights[round(min(max((value - low) / span, 0.0), 1.0) * top) if span > 0 else 0]
            for value in values[max(0, len(values) - cells) :]
        )


UNICODE: Final = Glyphs("█", "░", "▁▂▃▄▅▆▇█")
ASCII: Final = Glyphs("#", ".", ".:-=+*#")


def glyphs_for(encoding: str) -> Glyphs:
    """The set that can be written in this encoding."""
    try:
        (UNICODE.full + UNICODE.empty + UNICODE.heights).encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return ASCII
    return UNICODE
