"""The settings of `flexquant-serve`, from the class that reads them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.generate.table import table
from flexquant.clients.sizes import format_size
from flexquant.server.settings import Settings, parse_size

_NAMES: Final[dict[object, str]] = {
    bool: "on or off",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "file",
    SecretStr: "text",
    tuple: "list",
}


def text() -> str:
    """A table of all settings."""
    return table(
        ["flag", "value", "default", "what it does"],
        [
            (f"`--{name.replace('_', '-')}`", _value(field), _default(field), field.description or "")
            for name, field in Settings.model_fields.items()
        ],
    )


def _value(field: FieldInfo) -> str:
    kind, rules = _bare(field.annotation, field.metadata)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if _is_size(rules):
        return "size"
    if kind not in (int, float):
        return _NAMES[get_origin(kind) or kind]
    return f"{_NAMES[kind]}{_bounds(rules)}"


def _bare(annotation: Any, metadata: Iterable[Any]) -> tuple[Any, list[Any]]:
    """The type itself, and all that is said about it; None, which stands for "not given", is left out."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    inner: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        inner = tuple(rest)
    return annotation, list(_flat([*inner, *metadata]))


def _flat(rules: Iterable[Any]) -> Iterator[Any]:
    for rule in rules:
        yield from rule.metadata if isinstance(rule, FieldInfo) else [rule]


def _is_size(rules: Iterable[Any]) -> bool:
    return any(isinstance(rule, BeforeValidator) and rule.func is parse_size for rule in rules)


def _bounds(rules: Iterable[Any]) -> str:
    """Such as " from 1 to 8"; those of 0 say little, and numbers above 0 are told only."""
    told = ""
    for rule in rules:
        if isinstance(rule, Ge):
            told += f" from {rule.ge}"
        elif isinstance(rule, Gt):
            told += f" above {rule.gt}"
        elif isinstance(rule, Le):
            told += f" to {rule.le}"
    return told


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "(needed)"
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return format_size(default) if _is_size(_bare(field.annotation, field.metadata)[1]) else f"`{default}`"
