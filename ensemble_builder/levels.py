"""Levels: the average widths that a model is quantized to."""

import math
from itertools import pairwise
from typing import Final

from flexquant.engine.errors import UsageError

NARROWEST: Final = 2.0
WIDEST: Final = 8.0


def parse_levels(text: str) -> tuple[float, ...]:
    """Parse a list such as "8,4,2.5".

    Raises:
        UsageError: Fewer than two levels, one outside 2 to 8 bits, or not falling from best to smallest.
    """
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--levels {text}: not a list of numbers", hint="For example --levels 8,3") from error
    for level in levels:
        if not math.isfinite(level) or not NARROWEST <= level <= WIDEST:
            raise UsageError(
                f"--levels {text}: {level:g} bits is outside {NARROWEST:g} to {WIDEST:g}",
                hint="For example --levels 8,3",
            )
    if len(levels) < 2:
        raise UsageError(f"--levels {text}: an ensemble needs two levels or more", hint="For example --levels 8,3")
    if any(high <= low for high, low in pairwise(levels)):
        falling = ",".join(f"{level:g}" for level in sorted(set(levels), reverse=True))
        hint = f"Perhaps --levels {falling}" if "," in falling else "For example --levels 8,3"
        raise UsageError(f"--levels {text}: levels must fall from best to smallest", hint=hint)
    return levels


def check_nested(levels: tuple[float, ...]) -> None:
    """Check levels that are to be nested.

    Raises:
        UsageError: Two neighbours are nearer than the narrowest codes, which what is added has to have.
    """
    for high, low in pairwise(levels):
        if high - low < NARROWEST:
            raise UsageError(
                f"--nested: {high:g} and {low:g} bits are less than {NARROWEST:g} apart, the least that can be added",
                hint="Choose levels that are further apart, such as --levels 8,4, or leave --nested out.",
            )


def level_name(bits: float) -> str:
    """Return the name of a level, which is also its folder's: "8.0", "2.5"."""
    return str(float(bits))
