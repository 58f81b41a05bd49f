"""Logs of the daemon on stderr: lines for people, `key=value` where programs may want to read them, or JSON."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final, Literal

LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PLAIN: Final = re.compile(r"[\w.+-]+", re.ASCII)


class Fields:
    """What a log line says in particular; fields that are None are left out.

    The last argument of a message that ends in "%s": `key=value` pairs there, and keys of their own in JSON.
    """

    def __init__(self, **values: object) -> None:
        self.values = {key: value for key, value in values.items() if value is not None}

    def __str__(self) -> str:
        return " ".join(f"{key}={_shown(value)}" for key, value in self.values.items())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value) if _PLAIN.fullmatch(str(value)) else repr(value)


class JsonLines(logging.Formatter):
    """Each record as one line with a JSON object.

    It has `time` (UTC), `level`, `logger`, `message`, the record's Fields, and `exception`, the traceback, if there is
    one.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        match record.args:
            case (Fields() as said,):
                line["message"] = str(record.msg).removesuffix(" %s")
                line.update(
                    {key: round(value, 6) if isinstance(value, float) else value for key, value in said.values.items()}
                )
            case _:
                line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(level: str, line_format: Literal["text", "json"] = "text") -> None:
    """Send everything of `level` and above to stderr; of libraries, warnings at most.

    Args:
        level: "debug", "info", "warning" or "error".
        line_format: See `--log-format`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if line_format == "json" else logging.Formatter(LINE))
    ours = logging.getLogger("flexquant")
    ours.setLevel(level.upper())
    theirs = [logging.getLogger("uvicorn"), logging.getLogger()]
    for other in theirs:
        other.setLevel(max(logging.WARNING, ours.level))
    for logger in (ours, *theirs):
        logger.handlers = [handler]
        logger.propagate = False
    logging.captureWarnings(capture=True)
