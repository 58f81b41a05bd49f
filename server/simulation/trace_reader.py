"""Reads traces: from JSON Lines back to dumps and loads, with errors that name the line and the field.

The daemon only writes traces: this file alone needs pydantic for them, and only programs that read them import it.
"""

import json
import math
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Final, NoReturn, get_type_hints

from pydantic import TypeAdapter, ValidationError

from flexquant.engine.errors import InputError
from flexquant.server.controller.sample import Order, Sample
from flexquant.server.controller.state import Decision, Phase, State
from flexquant.server.controller.trace import FORMAT, MARK, ORDERS, Dump, DumpHeader, Row, Snapshot, TickRow, WishRow
from flexquant.server.simulation.load_trace import LoadHeader, LoadPoint, LoadTrace

Json = dict[str, Any]

_NO_TRACE_HINT: Final = "`flexquant doctor --dump FILE` writes one."


def read_trace(lines: Iterable[str], name: str) -> Dump | LoadTrace:
    """The trace in `lines`; `name` is what messages call it.

    Raises:
        InputError: It is no trace, of a later format, or damaged.
    """
    objects = _objects(lines, name)
    number, head = next(objects, (1, {}))
    if MARK not in head:
        raise InputError(f"{name}: no FlexQuant trace: the first line has no {MARK}", hint=_NO_TRACE_HINT)
    if head[MARK] != FORMAT:
        raise InputError(
            f"{name}: a trace of format {head[MARK]!r}; this version reads format {FORMAT}",
            hint="Use the version of FlexQuant that wrote it.",
        )
    if head.get("kind") == "dump":
        header: DumpHeader = _made(DumpHeader, head, name, number)
        steps = header.footprints
        if not steps or min(steps) < 0 or any(above < below for above, below in pairwise(steps)):
            raise InputError(f"{name}, line {number}: footprints: not bytes in descending order")
        return Dump(header, tuple(_dump_rows(objects, name)))
    if head.get("kind") == "load":
        return _load(_made(LoadHeader, head, name, number), objects, name)
    raise InputError(f"{name}, line {number}: kind: {head.get('kind')!r} is neither 'dump' nor 'load'")


# Dumps ---------------------------------------------------------------------------------------------------------


def _dump_rows(objects: Iterable[tuple[int, Json]], name: str) -> Iterator[Row]:
    number, latest = 1, -math.inf
    for number, found in objects:
        row = _row(found, name, number)
        if latest == -math.inf and not isinstance(row, Snapshot):
            raise InputError(f"{name}, line {number}: state: a dump begins with one, and this line has none")
        if not row.now >= latest:
            raise InputError(f"{name}, line {number}: now: {row.now} comes after {latest}")
        latest = row.now
        yield row
    if latest == -math.inf:
        raise InputError(f"{name}: the dump has no rows after line {number}")


def _row(found: Json, name: str, number: int) -> Row:
    if "state" in found:
        snapshot: Snapshot = _made(Snapshot, found, name, number)
        return snapshot
    if "sample" in found:
        return TickRow(
            now=_made(float, found.get("now"), name, number, "now"),
            sample=_made(Sample, found["sample"], name, number, "sample"),
            orders=tuple(_orders(found.get("orders"), name, number)),
            decision=_made(Decision | None, found.get("decision"), name, number, "decision"),
            phase=_made(Phase, found.get("phase"), name, number, "phase"),
        )
    if isinstance(wish := found.get("wish"), dict):
        return WishRow(
            now=_made(float, found.get("now"), name, number, "now"),
            wish={field: _wished(field, value, name, number) for field, value in wish.items()},
        )
    raise InputError(f"{name}, line {number}: none of the fields state, sample and wish, by which rows are told apart")


def _orders(found: object, name: str, number: int) -> Iterator[Order]:
    if not isinstance(found, list):
        raise InputError(f"{name}, line {number}: orders: no list")
    for index, order in enumerate(found):
        kind = order.get("order") if isinstance(order, dict) else None
        if not isinstance(kind, str) or kind not in ORDERS:
            raise InputError(f"{name}, line {number}: orders.{index}.order: {kind!r} is none of {', '.join(ORDERS)}")
        yield _made(ORDERS[kind], order, name, number, f"orders.{index}")


def _wished(field: str, value: object, name: str, number: int) -> object:
    kinds = _state_fields()
    if field not in kinds:
        raise InputError(f"{name}, line {number}: wish.{field}: the state has no such field")
    return _made(kinds[field], value, name, number, f"wish.{field}")


# Loads ---------------------------------------------------------------------------------------------------------


def _load(header: LoadHeader, objects: Iterable[tuple[int, Json]], name: str) -> LoadTrace:
    points: list[LoadPoint] = []
    number = 1
    for number, found in objects:
        point = _made(LoadPoint, found, name, number)
        problem = point.problem()
        if problem is None and points and point.at < points[-1].at:
            problem = f"at: {point.at:g} comes after {points[-1].at:g}"
        if problem is not None:
            raise InputError(f"{name}, line {number}: {problem}")
        points.append(point)
    if not points:
        raise InputError(f"{name}: the load has no points after line {number}")
    problem = header.problem()
    if problem is not None:
        raise InputError(f"{name}, line 1: {problem}")
    return LoadTrace(header, tuple(points))


# Both ----------------------------------------------------------------------------------------------------------


def _objects(lines: Iterable[str], name: str) -> Iterator[tuple[int, Json]]:
    """Every line that is not empty, with its number."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too long"
            raise InputError(f"{name}, line {number}: no JSON: {said}") from error
        if not isinstance(found, dict):
            raise InputError(f"{name}, line {number}: no JSON object")
        yield number, found


@cache
def _state_fields() -> dict[str, Any]:
    return get_type_hints(State)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _made(kind: Any, found: object, name: str, number: int, where: str = "") -> Any:
    """`found` as a `kind`, or InputError that names the field."""
    try:
        return _adapter(kind).validate_python(found)
    except ValidationError as error:
        _refuse(error, name, number, where)


def _refuse(error: ValidationError, name: str, number: int, where: str) -> NoReturn:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(part for part in (where, *map(str, first["loc"])) if part)
    raise InputError(f"{name}, line {number}: {field}: {first['msg']}") from error
