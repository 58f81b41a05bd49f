"""Finds calls in an answer that arrives in pieces.

What is found depends on the text alone, not on how it was cut: a streamed answer equals one that was not streamed.

- Text that may still become a call is held back: as much as is uncertain, and no more. That includes white space, since
  white space around calls belongs to them.
- A call is certain with the name of a tool and the beginning of its arguments. What looked like a call and is none,
  such as one of an unknown tool, stays text.
- Where the JSON of a certain call breaks off, its arguments end, and the rest is text.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from flexquant.server.tools.call_format import CallFormat
from flexquant.server.tools.call_reader import CallReader


@dataclass(frozen=True, slots=True)
class Content:
    """The next part of the answer's text; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of the tool `name` begins; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of a call's arguments, as the model spelled them; never empty."""

    index: int
    text: str


Part = Content | CallStart | CallArguments


class CallParser:
    """Tells the text of one answer from its calls.

    Args:
        form: How the model writes calls.
        names: Tools that it may call.
        single: Tell only the first call; further ones are left out.
    """

    def __init__(self, form: CallFormat, names: Collection[str], *, single: bool = False) -> None:
        self._form = form
        self._names = names
        self._single = single
        self._held = ""  # not told yet
        self._at = 0  # of it, what the present state has read
        self._state: Literal["text", "first", "call", "after call"] = "text"
        self._call: CallReader | None = None
        self._matched = 0  # of the form's `last`
        self._calls = 0
        self._begun = False  # text was told or a call was found
        self._after_calls = False
        self._parts: list[Part] = []

    @property
    def called(self) -> bool:
        """Whether there was a call so far."""
        return self._calls > 0

    def push(self, piece: str) -> list[Part]:
        """Take the next piece of text and return what has become certain."""
        self._held += piece
        self._go_on()
        return self._take_parts()

    def finish(self) -> list[Part]:
        """The answer has ended: return the rest."""
        while self._held:
            if self._state == "text":
                self._tell(len(self._held))
            elif self._state == "after call":
                self._drop(len(self._held))  # the end of a mark, cut short
            else:
                self._give_up()
                self._go_on()
        return self._take_parts()

    def _take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return _joined(parts)

    def _go_on(self) -> None:
        """Read what is held, as far as that goes."""
        while self._held and self._seek() and self._read():
            pass
        if self._call is not None and self._call.known:
            self._tell_arguments(self._call)

    # --- between calls

    def _seek(self) -> bool:
        """Find the next place where a call may begin; False if there is none yet."""
        if self._state != "text":
            return True
        if self._after_calls:
            self._held = self._held.lstrip()
            self._after_calls = not self._held
        text = self._held
        if self._form.bare and not self._begun:
            stripped = text.lstrip()
            if stripped.startswith("{"):
                self._enter("call", len(text) - len(stripped))
                return True
            if not stripped:
                return False
        found = text.find(self._form.opening)
        end = found if found >= 0 else len(text) - self._open_suffix(text)
        self._tell(len(text[:end].rstrip()))
        if found < 0:
            return False
        self._enter(
            "first" if self._form.first else "call", len(self._held) - len(text) + end + len(self._form.opening)
        )
        return True

    def _open_suffix(self, text: str) -> int:
        """Length of the longest end of `text` with which an opening begins."""
        opening = self._form.opening
        lengths = range(min(len(opening) - 1, len(text)), 0, -1)
        return next((length for length in lengths if text.endswith(opening[:length])), 0)

    def _enter(self, state: Literal["first", "call"], at: int) -> None:
        self._state, self._at, self._call = state, at, None

    # --- calls

    def _read(self) -> bool:
        """Read on in the calls; False if more text is needed."""
        while self._at < len(self._held):
            character = self._held[self._at]
            self._at += 1
            if not self._take(character):
                self._give_up()
            if self._state == "text":
                return True
        if self._state == "after call" or (self._call is not None and self._call.known):
            self._drop(self._at - self._matched)
        return False

    def _take(self, character: str) -> bool:
        """Take the next character of the calls; False if they do not go on like that."""
        space = character in " \t\r\n"
        if self._call is not None:
            return self._take_in_call(self._call, character)
        if self._state == "first":
            self._state = "first" if space else "call"
            return space or character == self._form.first
        if self._state == "call":
            if character == "{":
                self._call = CallReader(self._names)
                return self._call.push(character)
            return space
        return self._take_after_call(character, space=space)

    def _take_in_call(self, call: CallReader, character: str) -> bool:
        known = call.known
        if not call.push(character):
            return False
        if call.known and not known:
            assert call.name is not None, "a call that is known has a name"
            self._drop(self._at)
            self._begun = True
            if not (self._single and self._calls):
                self._parts.append(CallStart(self._calls, call.name))
            self._calls += 1
        if call.complete:
            self._tell_arguments(call)
            self._drop(self._at)
            self._state, self._call = "after call", None
        return True

    def _take_after_call(self, character: str, *, space: bool) -> bool:
        last = self._form.last
        if not self._matched and (space or character == self._form.between):
            if not space:
                self._drop(self._at - 1)
                self._state = "call"
            return True
        if not last.startswith(character, self._matched):
            return False
        self._matched += 1
        if self._matched == len(last):
            self._drop(self._at)
            self._end_calls()
        return True

    def _tell_arguments(self, call: CallReader) -> None:
        index, text = self._calls - 1, call.take_arguments()
        if text and not (self._single and index):
            self._parts.append(CallArguments(index, text))

    def _give_up(self) -> None:
        """What was taken for a call, or for more of them, is text as far as it has not been told."""
        call, self._call = self._call, None
        if self._state == "after call":
            self._end_calls()
        elif call is not None and call.known:
            self._tell_arguments(call)
            self._drop(self._at - 1)
            self._state, self._at = "text", 0
        else:
            self._state, self._at = "text", 0
            # Past its first character, so that it is not taken for a call again.
            self._tell(len(self._held) - len(self._held.lstrip()) + 1)

    def _end_calls(self) -> None:
        self._state, self._at, self._matched, self._after_calls = "text", 0, 0, True

    # --- what is held

    def _tell(self, length: int) -> None:
        if length:
            self._parts.append(Content(self._held[:length]))
            self._begun = True
            self._held = self._held[length:]

    def _drop(self, length: int) -> None:
        self._held = self._held[length:]
        self._at -= length


def _joined(parts: Iterable[Part]) -> list[Part]:
    """With neighbours of a kind made one."""
    joined: list[Part] = []
    for part in parts:
        match joined[-1:], part:
            case [Content(before)], Content(text):
                joined[-1] = Content(before + text)
            case [CallArguments(index, before)], CallArguments(same, text) if index == same:
                joined[-1] = CallArguments(index, before + text)
            case _:
                joined.append(part)
    return joined
