"""The scene that the picture shows, played by the real daemon and a program that really takes memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from bench.machine.conversation import Conversation
from bench.machine.helpers import Hog, running_daemon
from bench.machine.series import Look
from bench.machine.small_machine import Machine, footprints
from bench.machine.watch import Processes, Watch

LOOKS_PER_SECOND: Final = 20
CALM_S: Final = 8.0
STAY_S: Final = 20.0
AFTERWARDS_S: Final = 5.0
RATE: Final = 100_000_000
"""Bytes per second that the other program takes."""
SHARE: Final = 0.7
"""Of the elastic range: what the other program makes short."""
GIVE_UP_S: Final = 300.0
_QUESTION: Final = 64
_MOST: Final = 448
"""Tokens after which the conversation begins anew."""
_FLAGS: Final = ("--parallel=1", "--context=512")
"""One conversation: what is kept of earlier ones would only blur the picture."""


class SceneError(Exception):
    """It could not be played to its end."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What was seen. All times in seconds since the beginning; memory in bytes of resident anonymous pages.

    Args:
        daemon: Memory of the daemon over time.
        other: Memory of the other program over time.
        tokens: When each token arrived at the client, in one answer after the other.
        took: When the other program began to take memory.
        left: When it gave it back.
        weights: Largest and smallest size of the weights during the scene, by the daemon's own account.
    """

    daemon: tuple[tuple[float, int], ...]
    other: tuple[tuple[float, int], ...]
    tokens: tuple[float, ...]
    took: float
    left: float
    weights: tuple[int, int]


def play(ensemble: Path, machine: Machine, vocab: int, folder: Path) -> Scene:
    """Play the scene once: a minute and a half.

    Args:
        ensemble: Served.
        machine: Where the two programs are alone.
        vocab: Of the model.
        folder: For the daemon's log.

    Raises:
        SceneError: The model was not at its best in the beginning, or did not come back.
    """
    sizes = footprints(ensemble)
    smallest = sizes[0]
    with (
        Hog(machine.memory, seconds=900) as hog,
        running_daemon(folder, *machine.flags([hog.pid]), *_FLAGS, model=str(ensemble)) as daemon,
    ):
        port = httpx.URL(daemon.url).port or 0
        conversation = Conversation(lambda: port, _QUESTION, _MOST, vocab)

        def weights() -> int:
            size: int = daemon.get("/v1/elastic").json()["footprint_bytes"]
            return size

        with Watch(Processes([daemon.process.pid, hog.pid]), LOOKS_PER_SECOND) as watch, conversation.running():
            _wait(lambda: weights() == sizes[0] and len(conversation.turns) > 1, "the model did not come to its best")
            began = time.monotonic()
            time.sleep(CALM_S)
            took = time.monotonic()
            free = machine.memory - sum(watch.looks[-1].held)
            hog.take(free - machine.low + round(SHARE * (sizes[0] - sizes[-1])), per_second=RATE)
            stay_until = time.monotonic() + STAY_S
            while time.monotonic() < stay_until:
                smallest = min(smallest, weights())
                time.sleep(0.2)
            hog.give_back()
            left = time.monotonic()
            _wait(lambda: weights() == sizes[0], "the model did not come back to its best")
            time.sleep(AFTERWARDS_S)
            ended = time.monotonic()
    looks = [look for look in watch.looks if began <= look.time <= ended]
    return Scene(
        daemon=_series(looks, 0, began),
        other=_series(looks, 1, began),
        tokens=tuple(piece - began for piece in conversation.pieces if began <= piece <= ended),
        took=took - began,
        left=left - began,
        weights=(sizes[0], smallest),
    )


def _series(looks: list[Look], process: int, began: float) -> tuple[tuple[float, int], ...]:
    return tuple((look.time - began, look.held[process]) for look in looks)


def _wait(done: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not done():
        if time.monotonic() > deadline:
            raise SceneError(f"{otherwise} within {GIVE_UP_S:.0f} s")
        time.sleep(0.2)
