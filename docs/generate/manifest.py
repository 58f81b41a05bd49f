"""The records of `ensemble.json`, from the classes that check it and the texts below their fields."""

import ast
import inspect
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from docs.generate.table import table
from flexquant.engine import manifest
from flexquant.engine.manifest import Manifest, Record

_NAMES: Final[dict[object, str]] = {int: "integer", float: "number", str: "text", bool: "true or false"}


def text() -> str:
    """A section for each record: the manifest first, then those that it holds, as they appear."""
    told = _texts_of_fields()
    return "\n\n".join(_section(record, told[record.__name__]) for record in _records(Manifest, []))


def _section(record: type[Record], told: dict[str, str]) -> str:
    rows = []
    for name, field in record.model_fields.items():
        annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        optional = "" if field.is_required() else "may be absent; "
        rows.append((f"`{name}`", f"{optional}{_type(annotation)}", told.get(name, "")))
    description = " ".join((inspect.getdoc(record) or "").split())
    return f"## {record.__name__}\n\n{description}\n\n{table(['field', 'type', 'what it says'], rows)}"


def _records(record: type[Record], seen: list[type[Record]]) -> list[type[Record]]:
    """The record and all that it holds, each once."""
    if record not in seen:
        seen.append(record)
        for field in record.model_fields.values():
            for held in _held(field.annotation):
                _records(held, seen)
    return seen


def _held(annotation: Any) -> Iterator[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        yield annotation
    for part in get_args(annotation):
        yield from _held(part)


def _type(annotation: Any) -> str:
    """In words, with links to the records."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if annotation is NoneType:
        return "null"
    if origin is Annotated:
        return _type(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_type, parts))
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"{_type(parts[1])} by name"
    if origin is tuple:
        return f"[{', '.join(map(_type, parts))}]"
    return _NAMES[annotation]


def _texts_of_fields() -> dict[str, dict[str, str]]:
    """By class and field: the string that stands below the field in the source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(manifest)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        for field, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                texts[field.target.id] = " ".join(below.value.value.split())
    return found
