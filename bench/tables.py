"""Rows as text: for the terminal, and as blocks of a Markdown file that a run replaces."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figures import Figure
from bench.row import Row


def plain(rows: Sequence[Row]) -> str:
    """One line per row."""
    return "".join(
        f"{row.name}: {_figure(row.ours)} {row.unit}"
        + ("" if row.peer is None else f" | {_figure(row.peer)} {row.unit}")
        + ("" if row.ratio is None else f", {row.ratio:.2f}")
        + f" | {row.against}\n"
        for row in rows
    )


def markdown(rows: Sequence[Row]) -> str:
    """A table: medians, and the least and the most of the rounds in brackets."""
    lines = ["| what | ours | compared with | theirs | ours / theirs |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        peer = "" if row.peer is None else f"{_figure(row.peer)} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"| {row.name} | {_figure(row.ours)} {row.unit} | {row.against} | {peer} | {ratio} |")
    return "\n".join(lines) + "\n"


def block(suite: str, conditions: Mapping[str, str], rows: Sequence[Row]) -> str:
    """A suite's part of a Markdown file, between two comments."""
    return framed(suite, conditions, markdown(rows))


def framed(suite: str, conditions: Mapping[str, str], text: str) -> str:
    """The same with a table, or several, that are text already."""
    told = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    return f"{_begin(suite)}\n### {suite}\n\n{told}\n\n{text}{_end(suite)}\n"


def replace_block(text: str, suite: str, new: str) -> str:
    """Put a suite's block in the place of its old one, or at the end."""
    if _begin(suite) not in text:
        return f"{text.rstrip()}\n\n{new}" if text.strip() else new
    before, rest = text.split(_begin(suite), 1)
    if _end(suite) not in rest:
        raise ValueError(f"{_begin(suite)} has no {_end(suite)}")
    return before + new + rest.split(_end(suite), 1)[1].removeprefix("\n")


def write_blocks(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace the blocks of suites in a file; everything else in it stays."""
    text = path.read_text() if path.exists() else ""
    for suite, new in blocks.items():
        text = replace_block(text, suite, new)
    path.write_text(text)


def _begin(suite: str) -> str:
    return f"<!-- bench {suite} -->"


def _end(suite: str) -> str:
    return f"<!-- /bench {suite} -->"


def _figure(figure: Figure) -> str:
    if figure.rounds == 1:
        return _number(figure.median)
    return f"{_number(figure.median)} ({_number(figure.least)} to {_number(figure.most)})"


def _number(value: float) -> str:
    """Three digits, and all of them before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
