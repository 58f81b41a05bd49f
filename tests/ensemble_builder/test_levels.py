"""Levels as a person writes them."""

import pytest

from flexquant.engine.errors import UsageError
from flexquant.ensemble_builder.levels import level_name, parse_levels


@pytest.mark.parametrize(("text", "levels"), [("8,3", (8.0, 3.0)), ("8, 4,2.5", (8.0, 4.0, 2.5))])
def test_good_levels(text: str, levels: tuple[float, ...]) -> None:
    assert parse_levels(text) == levels


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("3,8", "must fall", "Perhaps --levels 8,3"),
        ("8,8", "must fall", "For example"),
        ("8", "two levels", "For example"),
        ("9,3", "9 bits is outside 2 to 8", "For example"),
        ("8,1.5", "1.5 bits is outside", "For example"),
        ("8,nan", "nan bits is outside", "For example"),
        ("8,x", "not a list of numbers", "For example"),
        ("", "not a list of numbers", "For example"),
    ],
)
def test_bad_levels_say_what_is_wrong(text: str, says: str, hint: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_levels(text)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_names() -> None:
    assert [level_name(bits) for bits in (8, 2.5)] == ["8.0", "2.5"]
