"""What a terminal shows, as an SVG that asks nobody for a font."""

import io
import re
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

_FONT_FACES: Final = re.compile(r"@font-face \{\{.*?\n    \}\}\n", re.DOTALL)
_FORMAT: Final = _FONT_FACES.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "monospace")


def svg_of(screen: str, columns: int, title: str) -> str:
    """Draw a screen.

    Args:
        screen: Its lines, with escape sequences for colours.
        columns: Of the terminal.
        title: Of the window.
    """
    console = Console(width=columns, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in screen.rstrip("\n").split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop", crop=True)
    # The id makes the same screen the same file.
    return console.export_svg(title=title, theme=MONOKAI, code_format=_FORMAT, unique_id="terminal")
