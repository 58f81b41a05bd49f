"""Logs of the daemon: lines on stderr, `key=value` where programs may want to read them."""

import logging
import sys
from typing import Final

LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(level: str) -> None:
    """Send everything of `level` and above to stderr, uvicorn's warnings included.

    Args:
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(LINE))
    ours = logging.getLogger("flexquant")
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(level.upper())
    theirs = logging.getLogger("uvicorn")
    theirs.handlers = [handler]
    theirs.propagate = False
    theirs.setLevel(max(logging.WARNING, ours.level))


def fields(**values: object) -> str:
    """`key=value` pairs for a log line; those that are None are left out."""
    return " ".join(f"{key}={_plain(value)}" for key, value in values.items() if value is not None)


def _plain(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
