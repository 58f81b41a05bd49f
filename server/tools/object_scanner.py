"""A JSON object that arrives character by character: where its members begin and end, and whether it is JSON at all.

Source: RFC 8259. Stricter than Python's json module only in that NaN and Infinity are no numbers.
"""

import re
from typing import Final

_SPACE: Final = " \t\n\r"
_SCALAR: Final = re.compile(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SCALAR_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzE0123456789+-.")
_HEX: Final = frozenset("0123456789abcdefABCDEF")


class ObjectScanner:
    """Reads one object, its opening bracket first."""

    def __init__(self) -> None:
        self._due: list[str] = []  # closing brackets
        self._next = "opening"
        self._scalar = ""
        self._hex_digits = 0
        self._in_key = False
        self.key = ""
        """The latest key of the object itself, as it is spelled between its quotes."""
        self.in_value = False
        """Whether the latest character belongs to the value of `key`."""
        self.key_read = False
        """Whether the latest character was the end of `key`."""
        self.value_read = False
        """Whether the value of `key` is complete; a number is with the character after it."""

    @property
    def closed(self) -> bool:
        """Whether the object is complete."""
        return self._next == "end"

    def push(self, character: str) -> bool:
        """Take the next character; False if no JSON object goes on like that. Nothing may be pushed after that."""
        if self._next == "scalar" and character not in _SCALAR_CHARACTERS:
            if not _SCALAR.fullmatch(self._scalar):
                return False
            self._end_value()
        self.key_read = False
        in_text = self._next in ("scalar", "string", "escape", "hex") and not self._in_key
        self.in_value = in_text or len(self._due) > 1
        in_own_key = self._in_key and len(self._due) == 1
        taken = self._take(character)
        if in_own_key and self._in_key:
            self.key += character
        return taken

    def _take(self, character: str) -> bool:
        match self._next:
            case "string":
                return self._take_in_string(character)
            case "escape":
                self._next, self._hex_digits = ("hex", 0) if character == "u" else ("string", 0)
                return character in '"\\/bfnrtu'
            case "hex":
                self._hex_digits += 1
                self._next = "string" if self._hex_digits == 4 else "hex"
                return character in _HEX
            case "scalar":
                self._scalar += character
                return True
            case _ if character in _SPACE:
                return self._next not in ("opening", "end")
            case "opening":
                return character == "{" and self._open("}")
            case "first key" | "key":
                if character == "}" and self._next == "first key":
                    return self._close(character)
                if len(self._due) == 1:
                    self.key, self.value_read = "", False
                self._in_key, self._next = True, "string"
                return character == '"'
            case "colon":
                self._next = "value"
                return character == ":"
            case "first value" | "value":
                if character == "]" and self._next == "first value":
                    return self._close(character)
                return self._begin_value(character)
            case "after value":
                if character == ",":
                    self._next = "key" if self._due[-1] == "}" else "value"
                    return True
                return self._close(character)
            case _:
                return False

    def _take_in_string(self, character: str) -> bool:
        if character == '"':
            if self._in_key:
                self._in_key, self._next = False, "colon"
                self.key_read = len(self._due) == 1
            else:
                self._end_value()
            return True
        if character == "\\":
            self._next = "escape"
        return character >= " "

    def _begin_value(self, character: str) -> bool:
        self.in_value = True
        if character in "{[":
            return self._open("}" if character == "{" else "]")
        if character == '"':
            self._next = "string"
            return True
        self._next, self._scalar = "scalar", character
        return character in _SCALAR_CHARACTERS

    def _open(self, closing: str) -> bool:
        self._due.append(closing)
        self._next = "first key" if closing == "}" else "first value"
        return True

    def _close(self, character: str) -> bool:
        if character != self._due.pop():
            return False
        if self._due:
            self._end_value()
        else:
            self._next = "end"
        return True

    def _end_value(self) -> None:
        self._next = "after value"
        self.value_read = self.value_read or len(self._due) == 1
