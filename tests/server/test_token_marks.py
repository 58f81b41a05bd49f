"""Tokens go out with the text that they begin in, once, in order, whatever is held back."""

from hypothesis import given
from hypothesis import strategies as st

from flexquant.engine.logprobs import TokenScore
from flexquant.server.token_marks import MarkedToken, TokenMarks

PIECES = st.lists(st.text(max_size=4), max_size=12)


def score(token: int) -> TokenScore:
    return TokenScore(token, -1.0, ())


@given(pieces=PIECES, data=st.data())
def test_every_token_goes_out_once_with_its_first_character(pieces: list[str], data: st.DataObject) -> None:
    marks, held, given_out = TokenMarks(), "", ""
    seen: list[MarkedToken] = []
    for token, piece in enumerate(pieces):
        marks.read(score(token), piece)
        held += piece
        count = data.draw(st.integers(0, len(held)))
        for marked in marks.give(held[:count]):
            assert len(given_out) <= marked.offset < len(given_out) + count or not pieces[marked.score.token]
            seen.append(marked)
        given_out, held = given_out + held[:count], held[count:]
    seen += [*marks.give(held), *marks.rest()]
    assert [marked.score.token for marked in seen] == list(range(len(pieces)))
    assert [marked.offset for marked in seen] == [len("".join(pieces[:token])) for token in range(len(pieces))]
    assert marks.rest() == ()


def test_tokens_of_one_character_begin_where_it_begins() -> None:
    marks = TokenMarks()
    for token, characters in enumerate(["a", "", "", "é", "b"]):
        marks.read(score(token), characters)
    assert [(marked.score.token, marked.offset) for marked in marks.give("aé")] == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert [marked.score.token for marked in marks.give("b")] == [4]


def test_what_a_stop_string_cuts_off_stays() -> None:
    marks = TokenMarks()
    for token, characters in enumerate(["one", " tw", "o st", "op"]):
        marks.read(score(token), characters)
    assert [marked.score.token for marked in marks.give("one two ")] == [0, 1, 2]
