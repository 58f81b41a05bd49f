"""The terminal while `top` runs: keys come singly, and it is as before afterwards, however that comes about."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

_VDISABLE: Final = b"\0"


@contextmanager
def single_keys(descriptor: int) -> Iterator[None]:
    """Have a terminal hand on each key at once, without showing it; restore it at the end.

    Ctrl-C still interrupts; Ctrl-Z, which would leave the screen as it is, does nothing.
    """
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        now = termios.tcgetattr(descriptor)
        now[6][termios.VSUSP] = _VDISABLE
        termios.tcsetattr(descriptor, termios.TCSANOW, now)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Waiter:
    """Waits for keys, for other threads, and for the window to change its size, all at once.

    Args:
        descriptor: The terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._keys = descriptor
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def wake(self) -> None:
        """Let `wait` return. From any thread."""
        with suppress(BlockingIOError):  # it has reason enough to return
            os.write(self._wake, b"\0")

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """Within the block, a window that changes its size wakes."""
        before = signal.signal(signal.SIGWINCH, lambda *_: self.wake())
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)

    def wait(self, seconds: float) -> str:
        """What was typed until now; empty when something else happened, or nothing for so long.

        Raises:
            EOFError: The terminal is gone.
        """
        ready, _, _ = select.select([self._keys, self._woken], [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._keys not in ready:
            return ""
        try:
            typed = os.read(self._keys, 1024)
        except OSError as error:
            raise EOFError from error
        if not typed:
            raise EOFError
        return typed.decode(errors="ignore")


def is_terminal(environment: Callable[[str], str | None] = os.environ.get) -> bool:
    """Whether a picture can be shown, and keys be read."""
    return sys.stdout.isatty() and sys.stdin.isatty() and environment("TERM") not in (None, "", "dumb", "unknown")
