"""Moves a model and prints, as JSON, what the process held meanwhile. Run in a process of its own.

python tests/support/move_memory.py ENSEMBLE CYCLES
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.memory.process import anonymous_bytes


class Peak:
    """The most that `measure` has returned: called on a thread all the time, and wherever `look` is called."""

    def __init__(self, measure: Callable[[], int] = anonymous_bytes) -> None:
        self.samples = 0
        self.bytes = 0
        self._measure = measure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def look(self) -> None:
        self.bytes = max(self.bytes, self._measure())
        self.samples += 1

    def _run(self) -> None:
        while not self._stop.wait(0.0002):
            self.look()

    def __enter__(self) -> "Peak":
        self._thread.start()
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    folder, cycles = Path(sys.argv[1]), int(sys.argv[2])
    model = ElasticModel.load(Ensemble.open(folder), kv_pages=1)

    def move(position: int) -> int:
        """Go there and return what the process holds then."""
        future = model.move_to(position)
        while not future.done():
            model.safe_point()
        assert future.result() == position
        return anonymous_bytes()

    def beyond_books() -> int:
        """What the process holds beyond what the books say; a step between two looks counts for neither."""
        before = model.resident_bytes().total
        held = anonymous_bytes()
        return held - max(before, model.resident_bytes().total)

    last = model.max_position
    for position in (min(3, last), 0):  # what Python and libc allocate once is not the model's
        move(position)
    up, mapped_up = anonymous_bytes(), model.resident_bytes().mapped
    with Peak() as peak:
        model.on_published = lambda _position: peak.look()
        low = move(last)
    model.on_published = lambda _position: None
    scratch = model.resident_bytes().scratch
    mapped_low = model.resident_bytes().mapped
    after_cycles = [move(0)]
    beyond_at_rest = beyond_books()
    with Peak(beyond_books) as beyond:
        move(last)
        move(0)
    for _ in range(cycles):
        move(last)
        after_cycles.append(move(0))
    result = {
        "positions": last + 1,
        "footprint": model.footprints[0],
        "mapped": [mapped_up, mapped_low],
        "anonymous": [up, low],
        "peak": peak.bytes,
        "samples": peak.samples,
        "spare": scratch["spare"],
        "beyond_books": [beyond_at_rest, beyond.bytes],
        "after_cycles": after_cycles,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
