"""flexquant-top in a terminal."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.daemon import RunningDaemon, clean_environment, running_daemon
from support.tmux import Terminal, terminal

pytestmark = [pytest.mark.e2e, pytest.mark.terminal]

TOP = (sys.executable, "-m", "flexquant.clients.top")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[34][0-8]|9[0-7]|10[0-7])[;m]")
"""39 and 49 are the terminal's own colours."""


def started(window: Terminal, url: str) -> str:
    """Start it; its first picture."""
    window.enter("stty -g > before; clear; echo what was here")
    window.run(*TOP, "--url", url, "--interval", "0.2")
    return window.until("q quit")


def assert_restored(window: Terminal, folder: Path, code: int) -> None:
    """The shell is there again, with the screen and the settings from before, and top has ended with that code."""
    window.enter("echo code $?; stty -g > after; echo done.")
    screen = window.until("\ndone.")
    assert "what was here" in screen
    assert f"code {code}\n" in screen
    assert "q quit" not in screen
    assert (folder / "before").read_text() == (folder / "after").read_text()


def test_it_shows_a_move_and_quits_cleanly(daemon: RunningDaemon, window: Terminal, tmp_path: Path) -> None:
    daemon.post("/v1/elastic/target", {"position": 0})
    screen = started(window, daemon.url)
    last = daemon.get("/v1/elastic").json()["max_position"]
    for part in (
        "docs-llama at http://",
        f"position   0 of {last}",
        "mode       pinned to 0",
        "perplexity",
        "tokens/s",
        "pressure",
    ):
        assert part in screen
    assert len(screen.splitlines()) == 24
    daemon.post("/v1/elastic/target", {"position": last})
    screen = window.until(f"position   {last} of {last}\nmode       pinned to {last}")
    low, _ = daemon.get("/v1/elastic").json()["footprint_range_bytes"]
    assert re.search(rf"\nfootprint +{low / 2**20:.1f} MiB ", screen)
    window.type("q")
    assert_restored(window, tmp_path, 0)


def test_keys_pin_and_let_go(daemon: RunningDaemon, window: Terminal) -> None:
    started(window, daemon.url)
    window.type("p1x2")
    window.until("pin to position: 12_")
    window.press("BSpace", "Enter")
    window.until("mode       pinned to 1")
    assert daemon.get("/v1/elastic").json()["pinned_position"] == 1
    window.type("p99999999")
    window.press("Enter")
    window.until("99999999")
    window.type("p5")
    window.press("Escape")
    window.until("q quit")
    window.type("a")
    window.until("mode       auto")
    assert daemon.get("/v1/elastic").json()["mode"] == "auto"


@pytest.mark.parametrize(("signal", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_signals_leave_the_terminal_as_it_was(
    daemon: RunningDaemon, window: Terminal, tmp_path: Path, signal: str, code: int
) -> None:
    started(window, daemon.url)
    if signal == "INT":
        window.press("C-c")
    else:
        [process] = subprocess.check_output(["pgrep", "-f", f"clients.top --url {daemon.url}"], text=True).split()
        subprocess.run(["kill", f"-{signal}", process], check=True)
    assert_restored(window, tmp_path, code)


def test_it_fits_the_window_and_follows_its_size(daemon: RunningDaemon, window: Terminal) -> None:
    started(window, daemon.url)
    window.resize(120, 40)
    screen = window.until(lambda screen: "q quit" in screen.splitlines()[-1] and len(screen.splitlines()) == 40)
    assert max(map(len, screen.splitlines())) > 80
    window.resize(50, 12)
    screen = window.until(lambda screen: len(screen.splitlines()) == 12 and "q quit" in screen)
    assert max(map(len, screen.splitlines())) <= 50
    assert "position   " in screen


def test_no_color_is_respected(daemon: RunningDaemon, tmp_path: Path) -> None:
    for variables, coloured in (({"NO_COLOR": "1"}, False), ({}, True)):
        folder = tmp_path / str(coloured)
        folder.mkdir()
        with terminal(folder, environment=variables) as window:
            started(window, daemon.url)
            assert bool(COLOUR.search(window.screen(colours=True))) == coloured
            window.type("q")
            window.until("ready$")


def test_a_daemon_that_is_restarted_is_watched_again(window: Terminal, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with running_daemon(folders[0], "--pin", "0") as first:
        started(window, first.url)
        url = first.url
    window.until("no daemon answers")
    with running_daemon(folders[1], "--pin", "3", "--port", url.rsplit(":", 1)[1]):
        screen = window.until("mode       pinned to 3")
        assert "no daemon answers" not in screen
        window.type("q")
        window.until("ready$")


def test_into_a_pipe_it_prints_a_line_for_each_change(daemon: RunningDaemon) -> None:
    daemon.post("/v1/elastic/target", {"position": 0})
    for arguments in ((), ("--json",)):
        with subprocess.Popen(
            [*TOP, "--url", daemon.url, "--interval", "0.2", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        ) as process:
            assert process.stdout is not None
            assert "\x1b" not in (first := process.stdout.readline())
            daemon.post("/v1/elastic/target", {"position": 2})
            deadline = time.monotonic() + 60
            for line in process.stdout:
                assert time.monotonic() < deadline
                if arguments:
                    assert json.loads(first)["elastic"]["position"] == 0
                    if json.loads(line)["elastic"]["position"] == 2:
                        break
                elif "position 2 of" in line:
                    assert "position 0 of" in first
                    break
            process.terminate()
        daemon.post("/v1/elastic/target", {"position": 0})
