"""Reading weights that nobody waits for, beside whoever computes."""

import threading
import time
from collections.abc import Callable
from typing import Final

SHARE: Final = 0.1
"""Of one core's time, what reading takes while somebody computes."""
LEAST_S: Final = 0.0005
"""Work that is not worth a rest: it is added to what follows. A sleeper wakes up later than it wanted."""


class Pace:
    """Lets computing go first: after each piece of work the loader rests in proportion, or until there is a hurry.

    Without that it takes a core from a token as soon as it has a step to read, and each token waits for the slower
    core. A lower priority of its thread would be no substitute: a thread that is not let run may hold what the engine
    thread needs, such as the interpreter's lock.

    Args:
        clock: Seconds that the calling thread has worked.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.computing = False
        """Whether somebody computes; the engine thread sets it."""
        self._clock = clock
        self._hurry = threading.Event()
        self._hurry.set()
        self._began = 0.0

    def slow_down(self) -> None:
        """What is read from now on may take its time. Loader thread only."""
        self._began = self._clock()
        self._hurry.clear()

    def hurry(self) -> None:
        """It may not, any more: ends a rest. Any thread."""
        self._hurry.set()

    def rest(self) -> None:
        """A piece of work is done. Called on the thread that reads."""
        if self._hurry.is_set():
            return
        worked = self._clock() - self._began
        if worked < LEAST_S:
            return
        if self.computing:
            self._hurry.wait(worked * (1 / SHARE - 1))
        self._began = self._clock()
