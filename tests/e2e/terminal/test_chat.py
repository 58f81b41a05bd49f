"""flexquant-chat in a terminal."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.daemon import RunningDaemon, clean_environment
from support.prometheus import scraped
from support.tmux import Terminal

pytestmark = [pytest.mark.e2e, pytest.mark.terminal]

CHAT = (sys.executable, "-m", "flexquant.clients.chat")
SHORT = ("--max-tokens", "24", "--temperature", "0")


def started(window: Terminal, daemon: RunningDaemon, *arguments: str) -> None:
    """Start it and wait for its first question."""
    window.enter("clear")
    window.run(*CHAT, "--url", daemon.url, *arguments)
    window.until(lambda screen: "/help lists commands" in screen and screen.rstrip().endswith("\n>"))


def running(daemon: RunningDaemon) -> float | None:
    """Answers that are being computed."""
    return scraped(daemon.get("/metrics").text).value("flexquant_requests_running")


def wait_for_an_answer(daemon: RunningDaemon) -> None:
    """Return once one is being computed."""
    deadline = time.monotonic() + 40
    while not running(daemon):
        assert time.monotonic() < deadline, daemon.log()


def test_a_chat_with_commands(daemon: RunningDaemon, window: Terminal, tmp_path: Path) -> None:
    started(window, daemon, *SHORT, "--system", "You are brief.")
    window.enter("What is a trait?")
    window.until("cut off")
    window.enter("/pin 4")
    window.until("position 4 of")
    assert daemon.get("/v1/elastic").json()["position"] == 4
    window.enter("/stats")
    screen = window.until("of weights")
    assert re.search(r"last answer: \d+ tokens in [\d.]+ s: [\d.]+ tokens/s, prompt included", screen)
    window.enter("/nonsense")
    window.until("there is no /nonsense")
    window.enter("/save chat.md")
    window.until("written to chat.md")
    saved = (tmp_path / "chat.md").read_text()
    assert "## system\n\nYou are brief.\n\n## user\n\nWhat is a trait?\n\n## assistant\n\n" in saved
    window.enter("/auto")
    window.until("(auto)")
    window.enter("/quit")
    window.until(lambda screen: screen.rstrip().endswith("ready$"))


def test_history_is_kept_for_the_next_time_and_nobody_else_reads_it(
    daemon: RunningDaemon, window: Terminal, tmp_path: Path
) -> None:
    started(window, daemon, *SHORT)
    window.enter("Tell me of lifetimes")
    window.until("cut off")
    window.press("C-d")
    window.until(lambda screen: screen.rstrip().endswith("ready$"))
    history = tmp_path / "state" / "flexquant" / "chat_history"
    assert "Tell me of lifetimes" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600
    started(window, daemon, *SHORT)
    window.press("Up")
    window.until("> Tell me of lifetimes")
    window.press("C-c")
    window.until("Ctrl-D or /quit leaves")
    window.press("C-d")
    window.until(lambda screen: screen.rstrip().endswith("ready$"))
    before = history.read_text()
    started(window, daemon, *SHORT, "--no-history")
    window.press("Up")
    window.enter("/pin x")
    window.until("/pin needs a position")
    window.enter("/quit")
    window.until(lambda screen: screen.rstrip().endswith("ready$"))
    assert history.read_text() == before


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(daemon: RunningDaemon, window: Terminal) -> None:
    started(window, daemon, "--temperature", "0")
    window.enter("List all functions")
    wait_for_an_answer(daemon)
    window.press("C-c")
    window.until("stopped; /retry answers anew")
    assert daemon.lines_with("finish=cancelled")
    assert running(daemon) == 0
    window.enter("/stats")
    window.until("last answer: stopped")
    window.enter("/quit")
    window.until(lambda screen: screen.rstrip().endswith("ready$"))


def test_messages_of_several_lines(daemon: RunningDaemon, window: Terminal, tmp_path: Path) -> None:
    started(window, daemon, *SHORT)
    window.type("one\\")
    window.press("Enter")
    window.type("two")
    window.press("Escape", "Enter")
    window.type("three")
    window.press("M-Enter")
    window.paste("four\nfive")
    window.press("Enter")
    window.until("cut off")
    window.enter("/save lines.md")
    window.until("written to lines.md")
    assert "## user\n\none\ntwo\nthree\nfour\nfive\n" in (tmp_path / "lines.md").read_text()


@pytest.mark.parametrize("where", ["prompt", "answer"])
def test_sigterm_leaves_the_terminal_as_it_was(
    daemon: RunningDaemon, window: Terminal, tmp_path: Path, where: str
) -> None:
    window.enter("stty -g > before")
    started(window, daemon, "--temperature", "0")
    if where == "answer":
        window.enter("List all functions")
        wait_for_an_answer(daemon)
    [process] = subprocess.check_output(["pgrep", "-f", f"clients.chat --url {daemon.url}"], text=True).split()
    subprocess.run(["kill", process], check=True)
    window.until(lambda screen: screen.rstrip().endswith("ready$"))
    window.enter("echo code $?; stty -g > after; echo done.")
    assert "code 143\n" in window.until("\ndone.")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_what_is_piped_in_is_answered_on_stdout_alone(daemon: RunningDaemon) -> None:
    command = [*CHAT, "--url", daemon.url, "--max-tokens", "12", "--temperature", "0"]
    answers = [
        subprocess.run(command, input=message, capture_output=True, text=True, env=clean_environment(), timeout=120)
        for message in ("What is a trait?", "What is a trait?\n")
    ]
    assert [answer.returncode for answer in answers] == [0, 0]
    assert answers[0].stdout == answers[1].stdout != "\n"
    assert answers[0].stderr == ""
