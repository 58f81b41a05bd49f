"""What the commands' argument parsers have in common."""

import argparse
from typing import Final

from flexquant.engine.sizes import parse_size

EXIT_CODES: Final = """\
exit codes:
  0  done
  1  something failed while it ran, such as a full disk or the network
  2  a flag, or a combination of flags, that cannot work
  3  a file or folder is missing, damaged or of the wrong kind; or the hub does not give the model
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


def size(text: str) -> int:
    """Parse a number of bytes, 1 or more; see `parse_size`."""
    try:
        found = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found == 0:
        raise argparse.ArgumentTypeError("must be 1 byte or more")
    return found


def share_of_one(text: str) -> float:
    """Parse a share, more than 0 and less than 1."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write one such as 0.4")
    return found
