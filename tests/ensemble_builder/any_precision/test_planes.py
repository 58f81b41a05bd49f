"""Bit planes: every bit of every code is where the format says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.ensemble_builder.any_precision.planes import planes_of


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.data())
def test_bit_i_of_word_w_is_column_32_w_plus_i(width: int, rows: int, words: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    codes = np.random.default_rng(seed).integers(0, 1 << width, (rows, 32 * words), dtype=np.uint8)
    first = data.draw(st.integers(0, width - 1))
    last = data.draw(st.integers(first + 1, width))
    planes = planes_of(codes, width, first, last)
    assert planes.dtype == np.int32
    assert planes.shape == (last - first, rows, words)
    for plane, at in enumerate(range(first, last)):
        for row in range(rows):
            for column in range(32 * words):
                word, i = divmod(column, 32)
                assert int(planes[plane, row, word]) >> i & 1 == int(codes[row, column]) >> (width - 1 - at) & 1
