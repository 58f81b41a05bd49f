"""What is typed in a chat, and what it means."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexquant.clients.chat.slash import (
    HELP,
    NAMES,
    Auto,
    Clear,
    Command,
    Help,
    Mistake,
    Pin,
    Quit,
    Retry,
    Save,
    Say,
    Stats,
    System,
    parse,
)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("Hello", Say("Hello")),
        ("  two\nlines \n", Say("two\nlines")),
        ("//etc/hosts is a file", Say("/etc/hosts is a file")),
        ("/system You are\nbrief.", System("You are\nbrief.")),
        ("/system", System(None)),
        ('/system ""', System("")),
        ("/pin 12", Pin(12)),
        ("/auto", Auto()),
        ("/stats", Stats()),
        ("/clear", Clear()),
        ("/retry", Retry()),
        ("/save my chat.md", Save(Path("my chat.md"))),
        ("/help", Help()),
        ("/quit", Quit()),
        ("/exit ", Quit()),
        ("", None),
        (" \n", None),
    ],
)
def test_commands(line: str, command: Command | None) -> None:
    assert parse(line) == command


@pytest.mark.parametrize("line", ["/pin", "/pin x", "/pin -1", "/pin 1e9", "/pin ²", "/pin 9999999999"])
def test_a_pin_needs_a_position(line: str) -> None:
    assert parse(line) == Mistake("/pin needs a position: /pin 0 is the best")


def test_mistakes_say_what_is_wrong() -> None:
    assert parse("/nonsense 1") == Mistake("there is no /nonsense; /help lists what there is")
    assert parse("/clear all") == Mistake("/clear stands alone")
    assert parse("/save") == Mistake("/save needs a file: /save chat.md")


def test_every_command_is_in_the_help() -> None:
    assert all(f"\n{name}" in f"\n{HELP}" for name in NAMES)
    assert not any(isinstance(parse(name), Say) for name in NAMES)


@given(st.text())
def test_a_message_is_a_command_only_with_a_slash(text: str) -> None:
    found = parse(text)
    stripped = text.strip()
    assert (found is None) == (not stripped)
    if stripped and not stripped.startswith("/"):
        assert found == Say(stripped)
    if isinstance(found, Say):
        assert parse(f"/{found.text}" if found.text.startswith("/") else found.text) == found
