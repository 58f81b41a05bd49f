"""What keys do in `top`. Pure."""

import re
from dataclasses import dataclass
from typing import Final

ENTER: Final = "\r"
ESCAPE: Final = "\x1b"
BACKSPACE: Final = ("\x7f", "\b")
MOST_DIGITS: Final = 9
_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)")
"""What arrow and function keys send."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Hold this position."""

    position: int


@dataclass(frozen=True, slots=True)
class Auto:
    """Follow the memory again."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave."""


Action = Pin | Auto | Quit


def keys_in(text: str) -> list[str]:
    """The keys that a terminal's input stands for, one character each; keys that send sequences are left out."""
    return list(_SEQUENCE.sub("", text).replace("\n", ENTER))


class Controls:
    """Turns keys into actions.

    `asking` is what was typed so far of a position; None while none is asked for.
    """

    def __init__(self) -> None:
        self.asking: str | None = None

    def press(self, key: str) -> Action | None:
        """Take one key; return what it asks for, if that is complete."""
        if self.asking is not None:
            return self._type(key)
        match key:
            case "q" | "Q":
                return Quit()
            case "a" | "A":
                return Auto()
            case "p" | "P":
                self.asking = ""
        return None

    def _type(self, key: str) -> Action | None:
        typed = self.asking or ""
        if key == ENTER:
            self.asking = None
            return Pin(int(typed)) if typed else None
        if key == ESCAPE:
            self.asking = None
        elif key in BACKSPACE:
            self.asking = typed[:-1]
        elif key.isascii() and key.isdigit() and len(typed) < MOST_DIGITS:
            self.asking = typed + key
        return None
