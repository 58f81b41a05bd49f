"""Where a person types: editing, several lines, history. The one file that knows prompt_toolkit."""

from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from flexquant.clients.chat.slash import NAMES

QUESTION: Final = "> "
MORE: Final = ". "


class Prompt:
    """Asks for lines.

    Args:
        history: Where they are kept for the next time; None keeps them for this chat only.
    """

    def __init__(self, history: Path | None) -> None:
        kept: History = InMemoryHistory() if history is None else FileHistory(str(history))
        self._session: PromptSession[str] = PromptSession(
            history=kept,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=MORE,
            completer=WordCompleter(list(NAMES), sentence=True),
            complete_while_typing=False,
        )

    def ask(self) -> str:
        """Wait for a message, which may have several lines.

        Raises:
            EOFError: Ctrl-D on an empty line.
            KeyboardInterrupt: Ctrl-C.
        """
        return self._session.prompt(QUESTION)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        """Send, unless a backslash at the end asks for another line."""
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline()
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")  # Alt-Enter sends the same
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    return keys
