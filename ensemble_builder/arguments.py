"""What the commands' argument parsers have in common."""

import argparse
import re
from typing import Final

EXIT_CODES: Final = """\
exit codes:
  0  done
  1  something failed while it ran, such as a full disk
  2  a flag, or a combination of flags, that cannot work
  3  a file or folder is missing, damaged or of the wrong kind
  130  interrupted; the same command continues a build
"""


def new_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser whose help ends with examples and exit codes."""
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"{examples}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """Parse a whole number, 1 or more."""
    number = natural(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def natural(text: str) -> int:
    """Parse a whole number, 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def minutes(text: str) -> float:
    """Parse a time span in minutes."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes")
    return found


def byte_size(text: str) -> int:
    """Parse a size: "4096" is bytes, "512MiB" and "5G" are powers of 1024, "5GB" of 1000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?B)?|B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it like 512MiB, 5G or 1500000000")
    number, prefix, ending = found.groups()
    base = 1000 if (ending or "").lower() == "b" else 1024
    size = int(float(number) * base ** (1 + "KMGT".index(prefix.upper()) if prefix else 0))
    if size == 0:
        raise argparse.ArgumentTypeError("must be 1 byte or more")
    return size


def share_of_one(text: str) -> float:
    """Parse a share, more than 0 and less than 1."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write one such as 0.4")
    return found
