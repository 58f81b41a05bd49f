"""The law's last ten minutes, at least: what it saw and did, kept small.

Two segments follow each other. When the newer one is full it becomes the older one, and what was the older one goes.
Each begins with the state before its first tick, so that a replay can start at either.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from flexquant.server.controller.sample import Order, Sample
from flexquant.server.controller.state import State
from flexquant.server.controller.trace import DumpHeader, Row, Snapshot, header_line, row_line, tick_row, wish_row

CHUNK_ROWS: Final = 64
"""Rows that are compressed together; a few milliseconds' work would be noticed, this is well below one."""
CHUNK_BYTES: Final = 1 << 20
"""A chunk ends earlier when its rows are this large."""


@dataclass(slots=True)
class Segment:
    """Some minutes of rows.

    Args:
        first: The state before its first row.
        chunks: Compressed lines.
        fresh: Lines that are not compressed yet.
        rows: How many in all.
    """

    first: Snapshot
    chunks: list[bytes] = field(default_factory=list)
    fresh: list[bytes] = field(default_factory=list)
    fresh_bytes: int = 0
    rows: int = 0

    def add(self, row: Row) -> None:
        """One more row."""
        line = row_line(row).encode("ascii") + b"\n"
        self.fresh.append(line)
        self.fresh_bytes += len(line)
        self.rows += 1
        if len(self.fresh) >= CHUNK_ROWS or self.fresh_bytes >= CHUNK_BYTES:
            self.chunks.append(zlib.compress(b"".join(self.fresh), 1))
            self.fresh, self.fresh_bytes = [], 0

    def copy(self) -> "Segment":
        """What it holds now, unmoved by later rows."""
        return Segment(self.first, list(self.chunks), list(self.fresh))

    def lines(self) -> Iterator[str]:
        """Its rows, the first state included."""
        yield row_line(self.first)
        for chunk in self.chunks:
            yield from zlib.decompress(chunk).decode("ascii").splitlines()
        for line in self.fresh:
            yield line.decode("ascii").rstrip("\n")


class Ring:
    """Remembers ticks and wishes. Not for several threads at a time.

    Args:
        span_s: Seconds that one segment holds; at least so much of the past is there once that much has passed.
        most_rows: A segment with so many rows is full, whatever its time.
    """

    def __init__(self, span_s: float = 600.0, most_rows: int = 8192) -> None:
        self._span_s = span_s
        self._most_rows = most_rows
        self._older: Segment | None = None
        self._newer: Segment | None = None
        self._last: State | None = None

    def tick(self, now: float, before: State, sample: Sample, orders: Sequence[Order], after: State) -> None:
        """Note one call of `decide`. What differs in `before` from the state as last noted counts as a wish."""
        if self._last is not None and before is not self._last:
            self.wish(now, before)
        self._segment(now, before).add(tick_row(now, before, sample, orders, after))
        self._last = after

    def wish(self, now: float, after: State) -> None:
        """Note the state after a user's wish. Before the first tick there is nothing to note: its state has it."""
        if self._last is None or self._newer is None:
            return
        row = wish_row(now, self._last, after)
        if row is not None:
            self._newer.add(row)
        self._last = after

    def dump(self, header: DumpHeader) -> Iterator[str]:
        """All lines of a dump, without their ends. What is noted after this call is not among them."""
        segments = [segment.copy() for segment in (self._older, self._newer) if segment is not None]
        return _lines(header, segments)

    def _segment(self, now: float, before: State) -> Segment:
        """The segment for a row that starts from the state `before`."""
        newer = self._newer
        if newer is None or now - newer.first.now >= self._span_s or newer.rows >= self._most_rows:
            self._older, newer = newer, Segment(Snapshot(now, before))
            self._newer = newer
        return newer


def _lines(header: DumpHeader, segments: Sequence[Segment]) -> Iterator[str]:
    yield header_line("dump", header)
    for segment in segments:
        yield from segment.lines()
