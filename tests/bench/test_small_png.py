"""Screenshots become small PNGs that any reader understands."""

import struct
import zlib

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.small_png import COLOURS, indexed_png

Pixels = npt.NDArray[np.uint8]
pictures = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))


def read(png: bytes) -> Pixels:
    """The pixels of an indexed PNG, by the letter of its specification."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks = {}
    at = 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        content = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + content),)
        chunks[kind] = content
        at += 12 + size
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    found: Pixels = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]
    return found


@given(pictures)
def test_few_colours_stay_as_they_are(pixels: Pixels) -> None:
    np.testing.assert_array_equal(read(indexed_png(pixels)), pixels)


def test_of_many_colours_the_frequent_ones_stay_and_the_rest_is_near() -> None:
    shades = np.stack([np.arange(1024) // 4, np.arange(1024) % 256, np.zeros(1024)], axis=1).astype(np.uint8)
    frequent = np.full((1, 1024, 3), 7, np.uint8)
    pixels = np.concatenate([frequent, shades[None]])
    found = read(indexed_png(pixels))
    np.testing.assert_array_equal(found[0], frequent[0])
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= COLOURS
    assert np.abs(found[1].astype(int) - shades).mean() < 70
