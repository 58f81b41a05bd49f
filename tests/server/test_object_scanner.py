"""The scanner of JSON objects takes what Python's json module takes, and nothing else."""

import json
from typing import Any, NoReturn

from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.tools.object_scanner import ObjectScanner

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
SPELLED = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent),
    OBJECTS,
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def objects_end(text: str) -> int | None:
    """Where an object at the start of `text` ends, by Python's json module."""
    if not text.startswith("{"):
        return None
    try:
        return json.JSONDecoder(parse_constant=refuse).raw_decode(text)[1]
    except ValueError:
        return None


def scanned_end(text: str) -> int | None:
    scanner = ObjectScanner()
    for place, character in enumerate(text):
        if not scanner.push(character):
            return None
        if scanner.closed:
            return place + 1
    return None


@given(SPELLED, st.text(max_size=3))
def test_an_object_ends_where_it_ends(text: str, after: str) -> None:
    assert scanned_end(text + after) == len(text)
    assert all(scanned_end(text[:length]) is None for length in range(len(text)))


@given(SPELLED, st.data())
@settings(max_examples=200)
def test_damaged_json_is_refused_or_ends_where_pythons_does(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    inserted = data.draw(st.sampled_from([*'{}[]",:\\-+.0123456789eEtrufalsn \n\t\x01é', "", "\\u12", "null", "NaN"]))
    damaged = text[:place] + inserted + text[place + data.draw(st.integers(0, 2)) :]
    assert scanned_end(damaged) == objects_end(damaged)


@given(OBJECTS)
def test_members_are_told_apart(value: dict[str, Any]) -> None:
    text, scanner = json.dumps(value), ObjectScanner()
    found: dict[str, str] = {}
    keys = 0
    for character in text:
        assert scanner.push(character)
        keys += scanner.key_read
        if scanner.in_value:
            found[scanner.key] = found.get(scanner.key, "") + character
    assert keys == len(value)
    assert {json.loads(f'"{key}"'): json.loads(spelled) for key, spelled in found.items()} == value
