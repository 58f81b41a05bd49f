"""The work that one rendering of a chat template may still do, in units of about one character."""

from collections.abc import ItemsView, KeysView, Mapping, Sized, ValuesView
from contextvars import ContextVar
from typing import Final

from jinja2 import TemplateError

BASE: Final = 1_000_000
PER_CHARACTER: Final = 50
_VISIT: Final = 4
"""For each value within a value, also of one that has no characters."""

_left: ContextVar[int] = ContextVar("work that this rendering may still do")


def begin(characters: int) -> None:
    """A rendering begins that is given so many characters."""
    _left.set(BASE + PER_CHARACTER * characters)


def pay(units: int) -> str:
    """Take from what is left; returns no text.

    Raises:
        TemplateError: Nothing is left.
    """
    left = _left.get() - abs(units)
    _left.set(left)
    if left < 0:
        raise TemplateError("it does more work than its messages account for")
    return ""


def weigh(value: object) -> object:
    """Pay for all of `value`, as for writing it out, and return it."""
    pay(_VISIT)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            weigh(key)
            weigh(inner)
    elif isinstance(value, list | tuple | KeysView | ItemsView | ValuesView):
        for inner in value:
            weigh(inner)
    else:
        look(value)
    return value


def look(value: object) -> object:
    """Pay for `value` without what is within it, as for a copy, and return it."""
    pay(length(value))
    return value


def length(value: object) -> int:
    """Characters, elements, or about the digits of a number."""
    if isinstance(value, Sized):
        return len(value)
    return 8 + (value.bit_length() // 4 if isinstance(value, int) else 0)
