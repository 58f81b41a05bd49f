from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.engine.prefill import chunks

TOKENS = st.integers(0, 3000)


@settings(deadline=None)
@given(start=TOKENS, total=TOKENS, chunk=st.integers(1, 600))
def test_chunks_cover_every_token_once_in_order(start: int, total: int, chunk: int) -> None:
    assert [token for part in chunks(start, total, chunk) for token in part] == list(range(start, total))


@settings(deadline=None)
@given(start=TOKENS, total=TOKENS, chunk=st.integers(1, 600))
def test_chunks_end_on_the_grid_or_at_the_end(start: int, total: int, chunk: int) -> None:
    for part in chunks(start, total, chunk):
        assert 0 < len(part) <= chunk
        assert part.stop % chunk == 0 or part.stop == total


@settings(deadline=None)
@given(start=TOKENS, total=TOKENS, chunk=st.integers(1, 600))
def test_a_start_on_the_grid_leaves_the_later_chunks_as_they_are(start: int, total: int, chunk: int) -> None:
    on_grid = start // chunk * chunk
    later = [part for part in chunks(0, total, chunk) if part.start >= on_grid]
    assert list(chunks(on_grid, total, chunk)) == later
