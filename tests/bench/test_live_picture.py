"""The picture of a live resize is a well-formed file that says what was seen; the scene itself is played by hand."""

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from bench.live_picture.drawing import BIN_S, HEIGHT, WIDTH, draw, per_second
from bench.live_picture.scene import Scene

SVG = "{http://www.w3.org/2000/svg}"
MB = 10**6


def scene(seconds: int = 60) -> Scene:
    """The daemon goes from 300 to 200 MB and back, the other program from 10 to 400 and back."""
    times = [second / 2 for second in range(2 * seconds + 1)]
    return Scene(
        daemon=tuple((at, (200 if 12 < at < 50 else 300) * MB) for at in times),
        other=tuple((at, (400 if 10 < at < 30 else 10) * MB) for at in times),
        tokens=tuple(number / 40 for number in range(40 * seconds)),
        took=10.0,
        left=30.0,
        weights=(200 * MB, 100 * MB),
    )


def test_picture_is_well_formed_and_tells_what_happened() -> None:
    root = ET.fromstring(draw(scene(), ["a model", "a machine & more"]))
    assert root.tag == f"{SVG}svg"
    title = root.findtext(f"{SVG}title") or ""
    assert "takes 400 MB" in title
    assert "gives 100 MB back" in title
    said = " ".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))
    assert "a model a machine & more" in said
    assert "another program takes memory" in said


def test_everything_is_drawn_within_the_picture() -> None:
    root = ET.fromstring(draw(scene(), []))
    shapes = [*root.iter(f"{SVG}polyline"), *root.iter(f"{SVG}polygon")]
    assert len(shapes) == 3
    for shape in shapes:
        for pair in shape.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_picture_asks_nothing_of_others() -> None:
    """It is shown by sites that load neither scripts nor anything else for a picture."""
    text = draw(scene(), []).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not [word for word in ("http", "<script", "@import", "url(") if word in text]
    assert "prefers-color-scheme: dark" in text


@given(st.lists(st.floats(0, 100)), st.floats(1, 100))
def test_tokens_are_counted_once(tokens: list[float], end: float) -> None:
    rates = per_second(tokens, end)
    assert sum(rate * BIN_S for _, rate in rates) == sum(at < len(rates) * BIN_S for at in tokens)
