"""Sizes as people write them."""

import re
from typing import Final

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?B)?|B)?\s*", re.IGNORECASE)
_POWER: Final = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Bytes from a human unit: "512MiB" and "2G" are powers of 1024, "2GB" of 1000, "4096" is bytes.

    Raises:
        ValueError: The text is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size; write it like 512MiB, 2G or 1500000000")
    number, prefix, suffix = found.groups()
    base = 1000 if (suffix or "").upper() == "B" else 1024
    return int(float(number) * base ** _POWER[prefix.upper()]) if prefix else int(float(number))
