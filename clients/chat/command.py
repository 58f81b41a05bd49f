"""`flexquant-chat`: a chat in the terminal, or one answer to what is piped in."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from flexquant.clients.chat.answering import Answering
from flexquant.clients.chat.conversation import Conversation
from flexquant.clients.chat.history import history_path, prepare
from flexquant.clients.chat.session import Session
from flexquant.clients.client import Client
from flexquant.clients.command import Connect, connect, parser, report
from flexquant.clients.ending import signals_that_end
from flexquant.clients.printable import one_line, printable

PROGRAM: Final = "flexquant-chat"
_FIELDS: Final = ("max_tokens", "temperature", "seed")
"""Flags that requests carry as they are; the daemon says what it makes of them."""


def main(arguments: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)
    fields = {name: value for name in _FIELDS if (value := getattr(given, name)) is not None}
    typed = sys.stdin.isatty() and sys.stdout.isatty()

    def action() -> None:
        with connect(given.url) as client:
            if typed:
                _talk(client, fields, given.system, history=not given.no_history)
            else:
                _answer_once(client, fields, given.system)

    return report(PROGRAM, action)


def _answer_once(client: Client, fields: dict[str, Any], system: str) -> None:
    """One message from stdin, one answer to stdout; whatever else there is to say goes to stderr."""
    question = sys.stdin.read().strip()
    if not question:
        _parser().error("there is no message on stdin")
    conversation = Conversation(system)
    conversation.ask(question)
    safe = printable if sys.stdout.isatty() else str
    found = Answering(client, fields, _warn).answer(conversation, lambda text: _write(safe(text)))
    if not found.text.endswith("\n"):
        _write("\n")
    if found.stopped:
        raise KeyboardInterrupt


def _talk(client: Client, fields: dict[str, Any], system: str, *, history: bool) -> None:
    # Imported late: it imports prompt_toolkit.
    from flexquant.clients.chat.prompt import Prompt

    model = client.models()[0]
    prompt = Prompt(_history() if history else None)
    session = Session(client, Answering(client, fields, _note), Conversation(system), _write, _note)
    _note(f"{one_line(model.id)}, {model.context_length} tokens of context; /help lists commands")
    with signals_that_end():
        while True:
            try:
                if not session.take(prompt.ask()):
                    return
            except KeyboardInterrupt:
                _note("Ctrl-D or /quit leaves")
            except EOFError:
                return


def _history() -> Path | None:
    path = history_path()
    try:
        prepare(path)
    except OSError as error:
        _warn(f"what you type is not kept for the next time: {path}: {error.strerror}")
        return None
    return path


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    """A line about the chat, told apart from what the model says."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    _write(f"{text}\n" if plain else f"\x1b[2m{text}\x1b[0m\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {text}\n")


def _parser() -> argparse.ArgumentParser:
    made = parser(
        PROGRAM,
        "Chat with the daemon's model. Text that is piped in is one message: its answer goes to stdout.",
        with_json=False,
    )
    made.add_argument("--system", default="", metavar="TEXT", help="the system prompt (default: none)")
    made.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of an answer")
    made.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token each time")
    made.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answers")
    made.add_argument("--no-history", action="store_true", help="keep nothing of what is typed for the next time")
    return made
