"""Pictures of the dashboard: the real daemon with the demo model, in the middle of a resize, under load.

`python -m bench.pictures.dashboard` writes them to docs/images. A hog takes the memory of a simulated machine and gives
it back, two streams run, somebody asks in the chat, and in the end the hog comes back: then each page is pictured.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Page

from bench.machine.helpers import Hog, RunningDaemon, running_daemon
from bench.machine.small_machine import MIB, Machine
from bench.small_png import small_png
from bench.worker import ROOT

FOLDER: Final = ROOT / "docs" / "images"
SIZES: Final[Mapping[str, Mapping[str, Any]]] = {
    "dashboard-light": {"color_scheme": "light", "viewport": {"width": 1400, "height": 900}},
    "dashboard-dark": {"color_scheme": "dark", "viewport": {"width": 1400, "height": 900}},
    "dashboard-narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 900}},
}
LARGE: Final = 4 << 30
SPARE: Final = 12 * MIB
"""What is available beside the demo model at its best while the hog has taken nothing."""
QUESTION: Final = "What is a trait?"
LOAD: Final = {"prompt": "The function returns", "max_tokens": 300, "ignore_eos": True, "temperature": 0.8}


def machine(memory: int) -> Machine:
    """A machine whose reserves suit a model of 6 MiB."""
    return Machine(memory, critical=MIB, low=2 * MIB, target=3 * MIB, high=4 * MIB)


def memory_in_use(folder: Path, hog: Hog) -> int:
    """Bytes that daemon and hog take, with the model at its best and some answers behind it."""
    with running_daemon(folder, *machine(LARGE).flags([hog.pid])) as daemon:
        daemon.post("/v1/completions", LOAD)
        time.sleep(2)
        available: int = daemon.get("/v1/elastic").json()["available_bytes"]
        return LARGE - available


@contextmanager
def load(daemon: RunningDaemon) -> Iterator[None]:
    """One answer after the other, until the block ends."""
    enough = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=daemon.url, timeout=120) as client:
            while not enough.is_set():
                client.post("/v1/completions", json=LOAD)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def play(daemon: RunningDaemon, hog: Hog, pages: Sequence[Page]) -> None:
    """Before the pictures: the hog takes and gives back, twice, then takes until the model moves."""
    time.sleep(30)
    for taken in (8 * MIB, 12 * MIB):
        hog.take(taken, per_second=MIB // 2)
        time.sleep(10)
        hog.give_back()
        time.sleep(40)
    while position(daemon) == 0:
        hog.take(MIB // 4, per_second=MIB)
        time.sleep(0.5)
    for page in pages:
        page.get_by_role("spinbutton", name="at most tokens").fill("160")
        page.get_by_label("Your message").fill(QUESTION)
        page.keyboard.press("Enter")
    time.sleep(2)


def position(daemon: RunningDaemon) -> int:
    """Where the model is now."""
    found: int = daemon.get("/v1/elastic").json()["position"]
    return found


def take(folder: Path) -> list[Path]:
    """Make all pictures; returns their paths."""
    from support.browser import Watched, chromium  # bench.machine.helpers makes it importable

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hog = stack.enter_context(Hog(limit=64 * MIB))
        memory = memory_in_use(scratch, hog) + SPARE
        flags = [*machine(memory).flags([hog.pid]), "--grow-window=8", "--cooldown=6", "--parallel=6"]
        daemon = stack.enter_context(running_daemon(scratch, *flags))
        browser = stack.enter_context(chromium())
        pages = {name: Watched(browser, **options).open(daemon.url) for name, options in SIZES.items()}
        with load(daemon):
            play(daemon, hog, list(pages.values()))
            paths = []
            for name, page in pages.items():
                path = folder / f"{name}.png"
                path.write_bytes(page.screenshot(full_page=True))
                paths.append(path)
        for path in paths:
            path.write_bytes(small_png(browser.contexts[0], path.read_bytes()))
        return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pictures, and say how large they are."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pictures.dashboard", description="Pictures of the dashboard."
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write them to (default: docs/images)")
    folder: Path = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    for path in take(folder):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
