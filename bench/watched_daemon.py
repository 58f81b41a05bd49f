"""Our daemon as it is, with a model that writes down when a request's memory is given back.

`python -m bench.watched_daemon FILE FLAGS...`, with the daemon's flags; read by `bench.releases`.
"""

import json
import sys
import time
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

from flexquant.engine.thread_waiting import sleep_while_waiting

sleep_while_waiting()  # as the daemon does, before anything loads torch

from flexquant.engine.elastic_model import ElasticModel  # noqa: E402  # see above
from flexquant.engine.kv_cache import KVSequence  # noqa: E402
from flexquant.server import main as daemon  # noqa: E402
from flexquant.server import startup  # noqa: E402


def watched(found: TextIO) -> type[ElasticModel]:
    """The model's class, writing a line into `found` for every sequence that gives its memory back."""

    class Watched(ElasticModel):
        _safe_points: list[float] = []  # noqa: RUF012  # there is one model

        def safe_point(self) -> None:
            self._safe_points.append(time.monotonic())
            super().safe_point()

        def release(self, sequence: KVSequence) -> None:
            tokens = sequence.length
            super().release(sequence)
            line = {
                "time": time.monotonic(),
                "tokens": tokens,
                "safe_points": self._safe_points,
            }
            found.write(json.dumps(line) + "\n")
            found.flush()
            self._safe_points.clear()

    return Watched


def main() -> int:
    """Run the daemon; returns its exit code."""
    path, *flags = sys.argv[1:]
    with Path(path).open("w") as found, patch.object(startup, "ElasticModel", watched(found)):
        return daemon.main(flags)


if __name__ == "__main__":
    sys.exit(main())
