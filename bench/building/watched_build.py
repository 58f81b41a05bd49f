"""Runs `flexquant-build` and watches it from outside: what each of its stages takes in time and memory."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

import psutil

LOOK_SECONDS: Final = 0.25
_PROGRESS: Final = re.compile(r"(.+?): \d+/\d+\b")


class BuildError(Exception):
    """The build failed."""


@dataclass(slots=True)
class Stage:
    """A stage of the build.

    Args:
        name: As the progress lines say it.
        started: When the stage before it was done.
        ended: When it was last heard of.
        peak: Most resident bytes that were seen of the process, mapped files included.
    """

    name: str
    started: float
    ended: float
    peak: int = 0

    @property
    def minutes(self) -> float:
        """What it took."""
        return (self.ended - self.started) / 60


@dataclass(slots=True)
class Stages:
    """Stages by their progress lines, "quantizing: 3/113, about 2 min left". The first begins when this is made.

    Args:
        clock: Seconds.
    """

    clock: Callable[[], float] = time.monotonic
    found: list[Stage] = field(default_factory=list)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def told(self, line: str) -> None:
        """A line of the build's progress."""
        progress = _PROGRESS.match(line)
        if progress is None:
            return
        now, name = self.clock(), progress[1]
        if not self.found or self.found[-1].name != name:
            self.found.append(Stage(name, self.found[-1].ended if self.found else self.started, now))
        self.found[-1].ended = now

    def seen(self, resident: int) -> None:
        """A look at the process."""
        if self.found:
            self.found[-1].peak = max(self.found[-1].peak, resident)


def watched_build(arguments: Sequence[str], *, told: TextIO = sys.stderr) -> list[Stage]:
    """Run `flexquant-build` and return its stages in order.

    Args:
        arguments: Of the command.
        told: Where its progress goes.

    Raises:
        BuildError: It ended with an error.
    """
    command = [sys.executable, "-m", "flexquant.ensemble_builder", *arguments]
    stages = Stages()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        ended = threading.Event()
        looking = threading.Thread(target=_look, args=(psutil.Process(process.pid), stages, ended))
        looking.start()
        try:
            assert process.stderr is not None
            for line in process.stderr:
                told.write(line)
                stages.told(line)
        finally:
            ended.set()
            looking.join()
    if process.returncode != 0:
        raise BuildError(f"flexquant-build ended with exit code {process.returncode}")
    return stages.found


def _look(process: psutil.Process, stages: Stages, ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        try:
            stages.seen(process.memory_info().rss)
        except psutil.NoSuchProcess:
            return
