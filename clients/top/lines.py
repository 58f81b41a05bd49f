"""What `top` prints where there is no terminal: a line for each change, or JSON for each reading. Pure."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from flexquant.clients.command import place_in_words
from flexquant.clients.printable import one_line
from flexquant.clients.sizes import format_size
from flexquant.clients.top.view import Reading, View
from flexquant.clients.top.words import clock, decided
from flexquant.clients.types import Elastic


class Lines:
    """Says what is new since it was asked last."""

    def __init__(self) -> None:
        self._known: View | None = None

    def plain(self, view: View, now: float) -> list[str]:
        """Lines for people: where the model is whenever that changes, decisions, and daemons that come and go."""
        return list(self._changes(view, now))

    def as_json(self, view: View, now: float) -> list[str]:
        """One object if there is a new reading, or a new problem."""
        known, self._known = self._known, view
        if known is not None and (known.last, known.problem) == (view.last, view.problem):
            return []
        return [json.dumps(object_of(view, now))]

    def _changes(self, view: View, now: float) -> Iterator[str]:
        known, self._known = self._known, view
        for decision in view.decisions:
            if known is not None and decision not in known.decisions:
                yield decided(decision)
        if view.problem is not None and (known is None or known.problem is None):
            yield f"{clock(now)} {one_line(view.problem)}; trying again"
        back = known is not None and known.problem is not None and view.problem is None
        last = view.last
        if last and (known is None or back or known.last is None or _place(known.last) != _place(last)):
            yield f"{clock(last.at)} {_described(last.elastic)}"


def object_of(view: View, now: float) -> dict[str, Any]:
    """A view for programs; see docs/guides/terminal.md."""
    last = view.last if view.problem is None else None
    return {
        "time": last.at if last else now,
        "url": view.url,
        "model": view.model or None,
        "problem": view.problem,
        "elastic": asdict(last.elastic) if last else None,
        "load": asdict(last.load) if last else None,
        "tokens_per_second": view.tokens_per_second if last else None,
    }


def _place(reading: Reading) -> tuple[object, ...]:
    """What a line is written for when it changes. Sizes that change all the time are not in it."""
    elastic = reading.elastic
    return (
        elastic.position,
        elastic.pinned_position,
        elastic.worst_position,
        elastic.override,
        elastic.pressure,
        elastic.refusing is None,
    )


def _described(elastic: Elastic) -> str:
    available = "unknown" if elastic.available_bytes is None else format_size(elastic.available_bytes)
    refusing = "" if elastic.refusing is None else f", refusing new requests: {elastic.refusing}"
    return one_line(
        f"position {place_in_words(elastic)}, {format_size(elastic.footprint_bytes)}, KL {elastic.quality.kl:.5f}, "
        f"{available} available, pressure {elastic.pressure}{refusing}"
    )
