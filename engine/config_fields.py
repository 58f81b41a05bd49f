"""Typed access to the fields of a JSON file, with errors that name file and field."""

import json
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeGuard

from flexquant.engine.errors import CheckpointError, UnsupportedModelError


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", hint="Is this a model folder?") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return found


class ConfigFields:
    """One JSON object; `null` counts as absent, as it does in transformers.

    Args:
        path: The file, for messages.
        fields: The object.
        prefix: Where the object lies in the file, such as "rope_scaling.".
    """

    def __init__(self, path: Path, fields: Mapping[str, object], prefix: str = "") -> None:
        self.path = path
        self._fields = fields
        self._prefix = prefix

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that holds one JSON object.

        Raises:
            CheckpointError: It cannot be read, or holds something else.
        """
        return cls(path, read_object(path))

    def __bool__(self) -> bool:
        """Whether there is any field."""
        return bool(self._fields)

    def __contains__(self, name: str) -> bool:
        """Whether the field is there, be it as `null`."""
        return name in self._fields

    def has(self, name: str) -> bool:
        """Whether the field is there and not `null`."""
        return self._fields.get(name) is not None

    def invalid(self, name: str, expected: str) -> CheckpointError:
        """The error for a field of no use; `expected` completes "it must be ..."."""
        where = f"{self.path}: {self._prefix}{name}"
        value = self._fields.get(name)
        if value is None:
            return CheckpointError(f"{where} is missing; it must be {expected}")
        return CheckpointError(f"{where} is {reprlib.repr(value)}; it must be {expected}")

    def unsupported(self, name: str, what: str, supported: str | None = None) -> UnsupportedModelError:
        """The error for a setting that the engine does not run; `what` names it, `supported` what it does run."""
        value = reprlib.repr(self._fields.get(name))
        return UnsupportedModelError(
            f"{self.path}: {self._prefix}{name} is {value}: {what} is not supported",
            hint=f"Supported: {supported}." if supported else None,
        )

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1.

        Raises:
            CheckpointError: It is something else, or absent without a default.
        """
        value = self._fields.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value < 2**31:
            raise self.invalid(name, "a whole number of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0.

        Raises:
            CheckpointError: It is something else, or absent without a default.
        """
        value = self._fields.get(name)
        if value is None and default is not None:
            return default
        if not _is_positive(value):
            raise self.invalid(name, "a number above 0")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """A truth value.

        Raises:
            CheckpointError: It is something else.
        """
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.invalid(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string.

        Raises:
            CheckpointError: It is something else, or absent without a default.
        """
        value = self._fields.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.invalid(name, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty if absent.

        Raises:
            CheckpointError: It is something else.
        """
        value = self._fields.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.invalid(name, "a list of strings")
        return tuple(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers above 0.

        Raises:
            CheckpointError: It is something else, or absent.
        """
        value = self._fields.get(name)
        if not isinstance(value, list) or not all(map(_is_positive, value)):
            raise self.invalid(name, "a list of numbers above 0")
        return tuple(map(float, value))

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty if absent. -1, which some files say for "none", is left out.

        Raises:
            CheckpointError: It is something else.
        """
        value = self._fields.get(name)
        if value is None:
            return ()
        ids: list[int] = []
        for item in value if isinstance(value, list) else [value]:
            if type(item) is not int or not -1 <= item < 2**31:
                raise self.invalid(name, "a token id or a list of them")
            ids.append(item)
        return tuple(token for token in ids if token >= 0)

    def section(self, name: str) -> "ConfigFields":
        """A nested object; empty if absent.

        Raises:
            CheckpointError: It is something else.
        """
        value = self._fields.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.invalid(name, "an object")
        return ConfigFields(self.path, value or {}, f"{self._prefix}{name}.")


def _is_positive(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number above 0."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value <= sys.float_info.max
