"""Pieces of a page that is one file and needs nothing else. No script, no network; light and dark as the reader's."""

from collections.abc import Sequence
from html import escape
from typing import Final

from flexquant.ensemble_builder.report.style import STYLE

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, body: Sequence[str]) -> str:
    """Return a whole page.

    Args:
        title: As text.
        body: As HTML.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8" />',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}" />',
            '<meta name="viewport" content="width=device-width, initial-scale=1" />',
            '<meta name="color-scheme" content="light dark" />',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def figure(svg: str, caption: str) -> str:
    """Return a figure; the caption is text."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def bullets(sentences: Sequence[str]) -> str:
    """Return a list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table of text whose first column names the rows; without a caption if that is empty."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    ]
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{named}<thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def megabytes(size: float) -> str:
    """Return a size as a person reads it: "3.036 MB"."""
    return f"{size / 1e6:.3f} MB"
