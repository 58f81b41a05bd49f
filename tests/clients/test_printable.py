"""Nothing that a model writes steers the terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from flexquant.clients.printable import one_line, printable


@given(st.text())
def test_no_control_characters_are_left_but_line_ends_and_tabs(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(char in "\n\t" or unicodedata.category(char) != "Cc" for char in shown)
    assert printable(shown) == shown


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


def test_escape_sequences_are_disarmed_and_words_stay() -> None:
    assert printable("a\x1b[2Jb\tc\n") == "a\ufffd[2Jb\tc\n"
    assert printable("\u202egnp.exe") == "\ufffdgnp.exe"
    assert one_line(" two\n\n words ") == "two words"
