"""Text from a model or a daemon, made safe for a terminal."""

from typing import Final

_KEPT: Final = "\n\t"
_INSTEAD: Final = "\N{REPLACEMENT CHARACTER}"
_BIDI: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that reorder what stands around them."""


def printable(text: str) -> str:
    """Return the text without control characters: what a model writes must not steer the terminal.

    Line ends and tabs stay. Each other control character becomes U+FFFD, escape sequences lose what makes them one.
    """
    return "".join(_INSTEAD if _steers(char) else char for char in text)


def _steers(char: str) -> bool:
    code = ord(char)
    return (code < 0x20 and char not in _KEPT) or 0x7F <= code < 0xA0 or char in _BIDI


def one_line(text: str) -> str:
    """The same, with every run of white space as one space."""
    return printable(" ".join(text.split()))
