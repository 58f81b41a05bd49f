"""The picture that `top` shows: lines from a view. Pure; it fits whatever size there is."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from flexquant.clients.command import limit_in_words, mode_in_words
from flexquant.clients.printable import one_line
from flexquant.clients.sizes import format_size
from flexquant.clients.top.glyphs import UNICODE, Glyphs
from flexquant.clients.top.view import View
from flexquant.clients.top.words import busy, clock, decided
from flexquant.clients.types import Elastic

LABEL: Final = 11
"""Cells of the words on the left."""
BAR: Final = 40
"""Most cells of the bar."""
KEYS: Final = "q quit   p pin a position   a follow the memory (auto)"
PRESSURE_STYLE: Final = {"none": "green", "low": "yellow", "critical": "bold red"}
TALL: Final = 20
"""Lines from which on there is room for history."""


def frame(
    view: View,
    width: int,
    height: int,
    *,
    now: float,
    asking: str | None = None,
    message: str = "",
    glyphs: Glyphs = UNICODE,
    keys: bool = True,
) -> list[Text]:
    """Draw.

    Args:
        view: What to show.
        width: Cells of each line, at most.
        height: Lines: exactly so many, or as many as there is something to say on if `keys` is False.
        now: Seconds since 1970.
        asking: What was typed so far of a position to pin; None while none is asked for.
        message: What became of the last wish.
        glyphs: What bars are made of.
        keys: Whether the last line says what keys do.
    """
    footer = [_footer(view, asking)] if keys else []
    told = Text(_problem(view), style="bold red") if view.problem is not None else Text(one_line(message), style="bold")
    lines = [_title(view, width, now), told, *_state(view, width, glyphs)]
    if height >= TALL:
        lines += [Text(), *_history(view, width, glyphs)]
    room = height - len(lines) - len(footer) - 2
    if room > 0 and view.decisions:
        lines += [Text(), Text("decisions", style="bold")]
        lines += [Text(decided(found)) for found in reversed(view.decisions[-room:])]
    if keys:
        lines = lines[: height - 1] + [Text()] * (height - 1 - len(lines)) + footer
    for line in lines:
        line.truncate(width, overflow="ellipsis" if glyphs is UNICODE else "crop")
    return lines[:height]


def _title(view: View, width: int, now: float) -> Text:
    time = clock(now)
    text = Text().append("flexquant top", style="bold")
    text.append(f"  {one_line(view.model)} at {one_line(view.url)}" if view.model else f"  {one_line(view.url)}")
    text.truncate(max(0, width - len(time) - 1), overflow="crop", pad=True)
    return text.append(f" {time}", style="dim")


def _problem(view: View) -> str:
    return f"{one_line(view.problem or '')}; trying again" + (" (below: what was known)" if view.readings else "")


def _state(view: View, width: int, glyphs: Glyphs) -> Iterator[Text]:
    last = view.last
    if last is None:
        return
    elastic = last.elastic
    quality = elastic.quality
    moving = f", moving to {elastic.target}" if elastic.target != elastic.position else ""
    yield _labelled("position", f"{elastic.position} of {elastic.max_position}{moving}", "bold")
    yield _labelled("mode", f"{mode_in_words(elastic)}{limit_in_words(elastic)}")
    yield _labelled("quality", f"perplexity {quality.perplexity:.3f}, KL {quality.kl:.5f}")
    yield _footprint(elastic, width, glyphs)
    yield _memory(elastic)
    yield _labelled("load", busy(last.load, view.tokens_per_second))
    if elastic.refusing is not None:
        yield _labelled("refusing", f"new requests: {one_line(elastic.refusing)}", "bold red")
    else:
        yield _labelled("law", elastic.phase)


def _labelled(label: str, text: str, style: str = "") -> Text:
    return Text().append(f"{label:<{LABEL}}", style="dim").append(text, style=style)


def _footprint(elastic: Elastic, width: int, glyphs: Glyphs) -> Text:
    low, up = elastic.footprint_range_bytes
    share = (elastic.footprint_bytes - low) / (up - low) if up > low else 1.0
    size = f"{format_size(elastic.footprint_bytes):>9} "
    ends = f" {format_size(low)} to {format_size(up)}"
    full, empty = glyphs.bar(share, max(0, min(BAR, width - LABEL - len(size) - len(ends))))
    line = _labelled("footprint", size, "bold")
    return line.append(full, style="cyan").append(empty, style="dim").append(ends)


def _memory(elastic: Elastic) -> Text:
    available = "unknown" if elastic.available_bytes is None else format_size(elastic.available_bytes)
    line = _labelled("memory", f"{available} available, pressure ")
    line.append(elastic.pressure, style=PRESSURE_STYLE.get(elastic.pressure, ""))
    silent = [source.name for source in elastic.sources if source.error is not None]
    return line.append(f"; without an answer: {', '.join(silent)}" if silent else "")


def _history(view: View, width: int, glyphs: Glyphs) -> Iterator[Text]:
    last = view.last
    if last is None:
        return
    low, up = last.elastic.footprint_range_bytes
    footprints = [reading.elastic.footprint_bytes for reading in view.readings]
    rates = view.rates()
    fastest = max(rates, default=0.0)
    yield _columns("footprint", footprints, low, up, "cyan", width, glyphs)
    yield _columns("tokens/s", rates, 0.0, fastest, "green", width, glyphs, f" at most {fastest:.1f}")


def _columns(
    label: str,
    values: Sequence[float],
    low: float,
    high: float,
    style: str,
    width: int,
    glyphs: Glyphs,
    after: str = "",
) -> Text:
    cells = max(0, width - LABEL - len(after))
    return _labelled(label, glyphs.columns(values, cells, low, high), style).append(after, style="dim")


def _footer(view: View, asking: str | None) -> Text:
    if asking is not None:
        last = view.last
        most = f"0 (best) to {last.elastic.max_position}" if last else "a number"
        return Text(f"pin to position: {asking}_   ({most}; Enter pins, Esc does not)", style="reverse")
    return Text(KEYS, style="dim")
