"""Sizes as people write and read them."""

import re
from typing import Final

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?B)?|B)?", re.IGNORECASE)
_PREFIXES: Final = "KMGT"


def parse_size(text: str) -> int:
    """Bytes: "512MiB" and "2G" are powers of 1024, "2GB" of 1000, "4096" is bytes.

    Raises:
        ValueError: The text is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write it like 512MiB, 2G or 1500000000")
    number, prefix, suffix = found.groups()
    base = 1000 if (suffix or "").upper() == "B" else 1024
    return int(float(number) * base ** (_PREFIXES.index(prefix.upper()) + 1 if prefix else 0))


def format_size(size: int) -> str:
    """Three figures or so, in powers of 1024: "4.2 MiB"."""
    value, unit = float(size), "B"
    for prefix in _PREFIXES:
        if abs(value) < 1024:
            break
        value, unit = value / 1024, f"{prefix}iB"
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
