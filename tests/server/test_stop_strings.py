"""No part of a stop string is ever given out, however the text is cut into pieces."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.stop_strings import StopMatcher

# Few letters, so that stop strings occur, overlap and contain each other.
TEXT = st.text("ab\nü", max_size=60)
STOPS = st.lists(st.text("ab\nü", min_size=1, max_size=6), max_size=5)


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition, character by character."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher, out = StopMatcher(stops), ""
    for piece in pieces:
        out += matcher.push(piece)
        if matcher.stopped:
            return out, True
    return out + matcher.flush(), False


@given(TEXT, STOPS, st.data())
@settings(deadline=None, max_examples=500)
def test_any_cut_into_pieces_gives_the_text_before_the_first_stop_string(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert run(pieces, stops) == cut(text, stops)


@given(TEXT, STOPS)
@settings(deadline=None, max_examples=300)
def test_what_is_given_out_early_is_never_taken_back(text: str, stops: list[str]) -> None:
    final, _ = cut(text, stops)
    matcher, out = StopMatcher(stops), ""
    for character in text:
        out += matcher.push(character)
        assert final.startswith(out)
        if matcher.stopped:
            break


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("some text E") == "some text "
    assert matcher.push("lse") == "Else"
    assert matcher.flush() == ""


def test_the_longer_of_two_that_end_together_counts() -> None:
    assert run(["xxab"], ["b", "ab"]) == ("xx", True)


def test_without_stop_strings_text_passes_through() -> None:
    assert run(["a", "", "b"], []) == ("ab", False)
