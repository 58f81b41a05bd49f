"""Sizes as people write and read them."""

import pytest

from flexquant.clients.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1K", 1024),
        ("512MiB", 512 << 20),
        (" 2 G ", 2 << 30),
        ("2gb", 2 * 10**9),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1X", "G", "1..5M", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (-(3 << 20), "-3.0 MiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_written(size: int, text: str) -> None:
    assert format_size(size) == text
