"""What moving costs whoever is reading: times between tokens while the model goes down and up again."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psutil

from bench.prompts import prompt
from flexquant.engine.elastic_model import ElasticModel
from flexquant.engine.generation import Generation
from flexquant.engine.memory.process import anonymous_bytes
from flexquant.server.elastic_facade import SHRINK_SECONDS, SHRINK_SHARE

_PROMPT: Final = 16
_WARM: Final = 8
_LOOK_SECONDS: Final = 0.001

Sweep = dict[str, list[tuple[int, float]]]
"""By direction, `down` and `up`: per token the position that made it, and seconds since the token before."""


def there_and_back(last: int) -> Iterator[int]:
    """The positions of a round trip, one step each: 1 to `last` and down to 0."""
    yield from range(1, last + 1)
    yield from range(last - 1, -1, -1)


def paced_sweep(model: ElasticModel, last: int) -> Sweep:
    """Order one step after the other, from 0 to `last` and back to 0, each when the one before was made.

    Steps are read while tokens are computed and published at safe points: at most one per token. The engine may wait
    for a step as long as the daemon lets it.
    """
    samples: Sweep = {"down": [], "up": []}
    generation = _generation(model, 2 * last)
    try:
        budget = min(SHRINK_SHARE * _token_seconds(generation), SHRINK_SECONDS)
        before = time.perf_counter()
        for target in there_and_back(last):
            shrinks = target > model.position
            model.move_to(target, budget_s=budget if shrinks else 0.0)
            while model.moving:
                if generation.finished:  # a growth may take many tokens: another sequence goes on
                    generation.close()
                    generation = _generation(model, 2 * last)
                    before = time.perf_counter()
                generation.step()
                now = time.perf_counter()
                samples["down" if shrinks else "up"].append((model.position, now - before))
                before = now
            _check(model)
    finally:
        generation.close()
    return samples


def steady_sweep(model: ElasticModel, last: int) -> Sweep:
    """Make tokens at the same positions, one at each, when nothing moves and nothing is read.

    A token of another sequence goes before each: it is the first to touch new memory.
    """
    samples: Sweep = {"down": [], "up": []}
    with _generation(model, 2 * last) as generation, _generation(model, 2 * last) as other:
        _token_seconds(generation)
        for target in there_and_back(last):
            shrinks = target > model.position
            model.move_to(target)
            _settle(model)
            other.step()
            before = time.perf_counter()
            generation.step()
            samples["down" if shrinks else "up"].append((model.position, time.perf_counter() - before))
    return samples


def give_back(model: ElasticModel, last: int) -> dict[str, float]:
    """Go from 0 to `last` and back as fast as it goes, with nothing else to do.

    Returns:
        `freed`, bytes that are no longer mapped at `last`, the spare not counted; `down` and `up`, seconds; `read_down`
        and `read_up`, bytes that the process read meanwhile; `risen`, bytes by which its anonymous memory was ever
        higher on the way down than before.
    """
    before, read = model.resident_bytes().mapped, _bytes_read()
    down = _move(model, last)
    freed, read_down = before - model.resident_bytes().mapped, _bytes_read() - read
    up = _move(model, 0)
    read_up = _bytes_read() - read - read_down
    with _highest() as highest:  # on a trip of its own, because looking reads files, too
        _move(model, last)
    _move(model, 0)
    return {
        "freed": freed,
        "down": down,
        "up": up,
        "read_down": read_down,
        "read_up": read_up,
        "risen": max(0, highest[-1] - highest[0]),
    }


def _bytes_read() -> int:
    """What the process has read from files so far."""
    return int(psutil.Process().io_counters().read_chars)


@contextmanager
def _highest() -> Iterator[list[int]]:
    """The process's anonymous memory at first, and the highest that was seen meanwhile."""
    found = [anonymous_bytes()] * 2
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            found[-1] = max(found[-1], anonymous_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        ended.set()
        looking.join()


def _generation(model: ElasticModel, tokens: int) -> Generation:
    generation = Generation(
        model, prompt(0, _PROMPT, model.config.vocab_size), max_tokens=tokens + _WARM + 1, ignore_eos=True
    )
    while not generation.generated:
        generation.step()
    return generation


def _token_seconds(generation: Generation) -> float:
    """Median seconds of the tokens that warm up."""
    times = []
    for _ in range(_WARM):
        before = time.perf_counter()
        generation.step()
        times.append(time.perf_counter() - before)
    return sorted(times)[_WARM // 2]


def _move(model: ElasticModel, position: int) -> float:
    begun = time.perf_counter()
    model.move_to(position)
    _settle(model)
    return time.perf_counter() - begun


def _settle(model: ElasticModel) -> None:
    while model.moving:
        model.safe_point()
    _check(model)


def _check(model: ElasticModel) -> None:
    if model.last_error is not None:
        raise RuntimeError(model.last_error)
