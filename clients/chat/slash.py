"""Commands of a chat: what begins with a slash. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class System:
    """Set the system prompt; None shows it, an empty text removes it."""

    text: str | None


@dataclass(frozen=True, slots=True)
class Pin:
    """Hold this position."""

    position: int


@dataclass(frozen=True, slots=True)
class Save:
    """Write the conversation to a file."""

    path: Path


@dataclass(frozen=True, slots=True)
class Auto:
    """Follow the memory again."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Show speed, position and footprint."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget the conversation."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Answer the last message anew."""


@dataclass(frozen=True, slots=True)
class Help:
    """Show what there is."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """No command; `why` says so to a person."""

    why: str


Command = Say | System | Pin | Save | Auto | Stats | Clear | Retry | Help | Quit | Mistake

HELP: Final = """\
/system TEXT   set the system prompt; without TEXT show it, with "" remove it
/pin N         hold position N (0 is the best)
/auto          follow the machine's memory again
/stats         speed of the last answer, position, footprint
/retry         answer the last message anew
/clear         forget the conversation; the system prompt stays
/save FILE     write the conversation to a new file
/help          show this
/quit          leave; so does Ctrl-D
Esc Enter, Alt-Enter or a \\ at the end begin a new line; // at the beginning sends a message that begins with /
Ctrl-C stops an answer and keeps what came of it"""

_ALONE: Final[dict[str, Command]] = {
    "/auto": Auto(),
    "/stats": Stats(),
    "/clear": Clear(),
    "/retry": Retry(),
    "/help": Help(),
    "/quit": Quit(),
    "/exit": Quit(),
}
NAMES: Final = ("/auto", "/clear", "/help", "/pin", "/quit", "/retry", "/save", "/stats", "/system")


def parse(line: str) -> Command | None:
    """What was typed; None if it is nothing but white space."""
    text = line.strip()
    if not text:
        return None
    if not text.startswith("/"):
        return Say(text)
    if text.startswith("//"):
        return Say(text[1:])
    name, *rest = text.split(maxsplit=1)
    value = rest[0] if rest else ""
    if name in _ALONE:
        return Mistake(f"{name} stands alone") if value else _ALONE[name]
    match name:
        case "/system":
            return System(_unquoted(value) if value else None)
        case "/pin":
            return _pin(value)
        case "/save":
            return Save(Path(value).expanduser()) if value else Mistake("/save needs a file: /save chat.md")
    return Mistake(f"there is no {name}; /help lists what there is")


def _pin(value: str) -> Command:
    if value.isascii() and value.isdigit() and len(value) < 10:
        return Pin(int(value))
    return Mistake("/pin needs a position: /pin 0 is the best")


def _unquoted(value: str) -> str:
    return "" if value in ('""', "''") else value
