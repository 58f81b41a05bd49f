"""Typed access to the fields of a `config.json`, with errors that name file and field."""

from pathlib import Path
from typing import Any

from flexquant.engine.errors import CheckpointError


class ConfigFields:
    """The fields of one JSON object. A field that is null counts as absent.

    Args:
        path: The file, for messages.
        fields: Its content.
        prefix: Name of the object within the file, such as "rope_scaling.".
    """

    def __init__(self, path: Path, fields: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self._fields = fields
        self._prefix = prefix

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"{value!r} is not a string")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._get(name, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise self.error(name, f"{value!r} is not a positive whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(name, f"{value!r} is not a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"{value!r} is not true or false")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """A token id, a list of them, or nothing."""
        value = self._fields.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise self.error(name, f"{value!r} is not a token id or a list of them")
        return tuple(ids)

    def object(self, name: str) -> "ConfigFields | None":
        """A nested object, None where it is absent."""
        if not self.has(name):
            return None
        value = self._fields[name]
        if not isinstance(value, dict):
            raise self.error(name, f"{value!r} is not an object")
        return ConfigFields(self.path, value, f"{self._prefix}{name}.")

    def error(self, name: str, what: str) -> CheckpointError:
        """An error that names the file and the field."""
        return CheckpointError(f"{self.path}: {self._prefix}{name}: {what}")

    def _get(self, name: str, default: object) -> object:
        value = self._fields.get(name)
        if value is None:
            if default is None:
                raise self.error(name, "is missing")
            return default
        return value
