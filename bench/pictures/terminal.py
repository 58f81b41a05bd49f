"""`python -m bench.pictures.terminal`: pictures of `flexquant top` in the middle of a resize, and of `flexquant chat`.

The demo answers clients on a simulated machine, from which another program takes memory. Needs tmux.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.machine.helpers import Hog, RunningDaemon, running_daemon  # makes what the tests have importable
from bench.pictures.ansi_svg import svg_of
from bench.worker import ROOT
from flexquant.clients import Client
from support.tmux import terminal

COLUMNS: Final = 92
ROWS: Final = 26
MIB: Final = 1 << 20
MACHINE: Final = 1 << 30
RESERVES: Final = ("--reserve-critical=1MiB", "--reserve-low=2MiB", "--reserve-target=3MiB", "--reserve-high=4MiB")
BEFOREHAND: Final = 700 * MIB
"""That the other program has taken already."""
QUICK, SLOW = 32 * MIB, MIB
"""Bytes a second: while there is plenty, and when there is not."""
PLENTY: Final = 24 * MIB
PIECE: Final = MIB // 2
ENOUGH: Final = 20
"""Position from which on the other program is content."""
AFTERWARDS_S: Final = 3.0


def main() -> int:
    """Take both pictures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.pictures.terminal", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (out / "top.svg").write_text(svg_of(_top(folder), COLUMNS, "flexquant top"), encoding="utf-8")
        (out / "chat.svg").write_text(svg_of(_chat(folder), COLUMNS, "flexquant chat"), encoding="utf-8")
    return 0


def _top(folder: Path) -> str:
    with Hog(limit=MACHINE) as hog:
        hog.take(BEFOREHAND, per_second=MACHINE)
        flags = [*RESERVES, f"--simulated-memory={MACHINE}", f"--simulated-pids={hog.pid}", "--context=512"]
        with (
            running_daemon(folder, *flags) as daemon,
            _talking(daemon),
            terminal(folder, columns=COLUMNS, rows=ROWS) as window,
            Client(daemon.url) as client,
        ):
            window.run(sys.executable, "-m", "flexquant.clients.top", "--url", daemon.url, "--interval", "0.5")
            window.until("q quit")
            hog.take(_available(client) - PLENTY, per_second=QUICK)
            while client.elastic().position < ENOUGH:
                hog.take(PIECE, per_second=SLOW)
            time.sleep(AFTERWARDS_S)
            return window.screen(colours=True)


def _available(client: Client) -> int:
    found = client.elastic().available_bytes
    assert found is not None, "the simulated machine has a size"
    return found


def _chat(folder: Path) -> str:
    with running_daemon(folder, "--pin", "0") as daemon, terminal(folder, columns=COLUMNS, rows=ROWS) as window:
        command = [sys.executable, "-m", "flexquant.clients.chat", "--url", daemon.url, "--no-history"]
        # Cleared once more after it was typed: where the interpreter lies is nobody's business.
        window.run("sh", "-c", 'clear; exec "$@"', "sh", *command, "--max-tokens=32", "--seed=4", "--temperature=0.7")
        window.until("/help lists")
        for line, then in (
            ("What does the function return?", "cut off"),
            ("/pin 40", "position 40"),
            ("/retry", "cut off"),
            ("/stats", "of weights"),
        ):
            told = _more(then, window.screen())
            window.enter(line)
            window.until(told)
        return window.screen(colours=True)


def _more(text: str, before: str) -> Callable[[str], bool]:
    """Whether a screen has a text more often than the one before."""
    return lambda screen: screen.count(text) > before.count(text)


@contextmanager
def _talking(daemon: RunningDaemon) -> Iterator[None]:
    """A client that asks for one answer after the other, and pauses in between."""
    enough = threading.Event()

    def talk() -> None:
        with Client(daemon.url) as client:
            while not enough.is_set():
                client.completions("On and on", max_tokens=150, ignore_eos=True)
                enough.wait(0.3)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
