"""The live picture: draws what the watch knows, and does what keys ask for."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rich.console import Console, Group
from rich.live import Live

from flexquant.clients.client import Client
from flexquant.clients.ending import signals_that_end
from flexquant.clients.errors import ClientError
from flexquant.clients.top.controls import Auto, Controls, Pin, Quit, keys_in
from flexquant.clients.top.frame import frame
from flexquant.clients.top.glyphs import glyphs_for
from flexquant.clients.top.terminal import Waiter, single_keys
from flexquant.clients.top.watch import Watch
from flexquant.clients.types import Elastic

LONGEST_WAIT_S: Final = 1.0
"""The clock goes on even when nothing happens."""


class Wishes:
    """Tells the daemon where the model shall be, without holding up the picture.

    Args:
        client: Of the daemon.
        done: Called, by another thread, when `message` has changed.
    """

    def __init__(self, client: Client, done: Callable[[], None]) -> None:
        self._client = client
        self._done = done
        self.message = ""
        """What became of the last one."""

    def make(self, wish: Pin | Auto) -> None:
        """Begin with one. The daemon answers when the move has been carried out."""
        self.message = f"pinning to {wish.position} ..." if isinstance(wish, Pin) else "back to the memory ..."
        threading.Thread(target=self._make, args=(wish,), name="top_wish", daemon=True).start()

    def _make(self, wish: Pin | Auto) -> None:
        try:
            match wish:
                case Pin(position):
                    self.message = _reached(self._client.set_target(position=position))
                case Auto():
                    self._client.set_target(mode="auto")
                    self.message = "follows the memory"
        except ClientError as error:
            self.message = error.message
        self._done()


def _reached(state: Elastic) -> str:
    if state.override is not None:
        return f"pinned to {state.pinned_position}, but memory is {state.override}"
    return f"pinned to {state.pinned_position}"


def run(client: Client, make_watch: Callable[[Callable[[], None]], Watch]) -> None:
    """Show the picture until somebody quits, or the terminal is gone.

    Args:
        client: Of the daemon, for wishes.
        make_watch: Makes what knows the state; is given what to call at each change.

    Raises:
        ClientError: The daemon cannot be asked at the beginning; nothing is shown then.
        KeyboardInterrupt: Ctrl-C. The terminal is restored then, and at every other end.
    """
    terminal = sys.stdin.fileno()
    waiter = Waiter(terminal)
    watch = make_watch(waiter.wake)
    watch.read()
    console = Console()
    with (
        signals_that_end(),
        single_keys(terminal),
        waiter.resizing(),
        Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live,
        watch.running(),
        suppress(EOFError),
    ):
        _show(live, watch, waiter, Wishes(client, watch.ask_now))


def _show(live: Live, watch: Watch, waiter: Waiter, wishes: Wishes) -> None:
    console, controls = live.console, Controls()
    glyphs = glyphs_for(console.encoding)
    while True:
        lines = frame(
            watch.view,
            *console.size,
            now=time.time(),
            asking=controls.asking,
            message=wishes.message,
            glyphs=glyphs,
        )
        live.update(Group(*lines), refresh=True)
        for key in keys_in(waiter.wait(LONGEST_WAIT_S)):
            action = controls.press(key)
            if isinstance(action, Quit):
                return
            if action is not None:
                wishes.make(action)
