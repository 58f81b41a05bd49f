"""What a terminal shows, as an SVG that asks nobody for a font."""

import io
from typing import Final

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI

# rich's own format with whatever font the reader has, instead of one that is fetched from a server.
_FORMAT: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def svg_of(screen: str, columns: int, title: str) -> str:
    """Draw a screen.

    Args:
        screen: Its lines, with escape sequences for colours.
        columns: Of the terminal.
        title: Of the window.
    """
    console = Console(width=columns, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in AnsiDecoder().decode(screen.rstrip("\n")):  # a style goes on from line to line
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    # The id makes the same screen the same file.
    return console.export_svg(title=title, theme=MONOKAI, code_format=_FORMAT, unique_id="terminal")
