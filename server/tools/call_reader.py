"""One call as models write it: a JSON object with the tool's name and its arguments."""

import json
from collections.abc import Collection
from typing import Final

from flexquant.server.tools.object_scanner import ObjectScanner

ARGUMENTS: Final = ("arguments", "parameters")
"""Either of them, whatever the model's template says: models mix them up."""
_OTHERS: Final = ("type", "id")
"""Further keys that a call may have before it is known to be one."""


class CallReader:
    """Reads a call character by character.

    It is known to be one as soon as there are the name of a tool and the beginning of an object of arguments, in any
    order. Until then nothing of it is certain; afterwards the arguments go out as they come.

    Args:
        names: Of the tools that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._object = ObjectScanner()
        self._keys: set[str] = set()
        self._spelled_name = ""
        self._untold = ""
        self._arguments_begun = False
        self.name: str | None = None
        """Of the tool, once it is complete."""

    @property
    def known(self) -> bool:
        """Whether this is a call for certain."""
        return self.name is not None and self._arguments_begun

    @property
    def complete(self) -> bool:
        """Whether its last character has been read."""
        return self._object.closed and self.known

    def take_arguments(self) -> str:
        """The arguments' text since the last time."""
        untold, self._untold = self._untold, ""
        return untold

    def push(self, character: str) -> bool:
        """Take the next character; False if no call goes on like that. Nothing may be pushed after that."""
        if not self._object.push(character):
            return False
        key = self._object.key
        if self._object.key_read:
            return self._accepts(key)
        if self._object.in_value and key in ARGUMENTS:
            if not self._arguments_begun and character != "{":
                return False
            self._arguments_begun = True
            self._untold += character
        elif self._object.in_value and key == "name":
            self._spelled_name += character
            return self._name_is_possible()
        return self.known or not self._object.closed

    def _accepts(self, key: str) -> bool:
        twice = key in self._keys or (key in ARGUMENTS and self._arguments_begun)
        self._keys.add(key)
        return not twice and (self.known or key in ("name", *ARGUMENTS, *_OTHERS))

    def _name_is_possible(self) -> bool:
        spelled = self._spelled_name
        if not spelled.startswith('"'):
            return False
        if self._object.value_read:
            self.name = json.loads(spelled)
            return self.name in self._names
        return "\\" in spelled or any(name.startswith(spelled[1:]) for name in self._names)
