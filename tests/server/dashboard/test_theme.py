"""The dashboard's colours can be read, in light and in dark."""

import re
from itertools import product
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[3] / "server" / "dashboard"
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part))
    for part in (FOLDER / "theme.css").read_text().split("@media")
)
TEXTS: Final = ("text", "muted", "accent", "free", "low", "critical", "speed")
EDGES: Final = ("edge-strong", "accent", "free", "low", "critical", "speed")


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [pytest.param(LIGHT, id="light"), pytest.param(DARK, id="dark")])
def test_texts_and_lines_stand_out(theme: dict[str, str]) -> None:
    for name, ground in product(TEXTS, ("panel", "ground")):
        assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
    for name in EDGES:
        assert contrast(theme[name], theme["panel"]) >= 3, name
    assert contrast(theme["on-accent"], theme["accent"]) >= 4.5


def test_both_themes_have_the_same_colours_and_all_of_them() -> None:
    assert LIGHT.keys() == DARK.keys()
    text = "".join(path.read_text() for path in FOLDER.glob("*.css"))
    defined = set(re.findall(r"--([\w-]+):", text))
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) == defined
