"""Where the labels of lines go: near their line, over no other line and no other label. Pure geometry in pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

HEIGHT: Final = 18.0
STRIDE: Final = 4.0
"""Distance between the dots that stand for a line when overlaps are counted."""
ANCHOR_STRIDE: Final = 4
"""Every so many dots of its line a label may stand."""
DISTANCES: Final = (10.0, 22.0, 36.0, 54.0)
DIRECTIONS: Final = ((1, -1), (-1, -1), (1, 1), (-1, 1), (1, 0), (-1, 0), (0, -1), (0, 1))

ALONE: Final = 60.0
"""Distance from other lines beyond which a label's place gets no better."""

Dots = NDArray[np.float64]
"""f64 [dots, 2]."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Return whether the two share any area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, x: float, y: float) -> bool:
        """Return whether the point lies in it."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def inside(self, other: "Box") -> bool:
        """Return whether it lies within `other`."""
        return other.holds(self.left, self.top) and other.holds(self.right, self.bottom)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return its point that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


@dataclass(frozen=True, slots=True)
class Label:
    """A label that wants a place.

    Args:
        text: What it says.
        width: How wide it is.
        line: Corners of the line that it names.
    """

    text: str
    width: float
    line: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a label goes.

    Args:
        anchor: The point of its line that it stands by.
        box: Its place.
    """

    anchor: tuple[float, float]
    box: Box


def place(labels: Sequence[Label], frame: Box) -> list[Placed]:
    """Place every label in `frame`, the first one first, each where it is in the way the least."""
    dots = [_dots(label.line) for label in labels]
    placed: list[Placed] = []
    for number, label in enumerate(labels):
        anchors = [(x, y) for x, y in dots[number][::ANCHOR_STRIDE].tolist()]
        candidates = [
            Placed(anchor, _box(anchor, label.width, direction, distance))
            for anchor in anchors
            for distance in DISTANCES
            for direction in DIRECTIONS
        ]
        inside = [candidate for candidate in candidates if candidate.box.inside(frame)] or candidates
        others = np.concatenate([np.empty((0, 2)), *dots[:number], *dots[number + 1 :]])
        alone = {anchor: _distance(anchor, others) for anchor in anchors}
        covered = _counts([candidate.box for candidate in inside], np.concatenate([dots[number], others]))
        crossed = _counts([_leader(candidate) for candidate in inside], others)
        badness = [
            1000 * _collisions(candidate, placed)
            + 50 * covers
            + 20 * crosses
            + math.dist(candidate.anchor, candidate.box.nearest(*candidate.anchor))
            - alone[candidate.anchor]
            for candidate, covers, crosses in zip(inside, covered, crossed, strict=True)
        ]
        placed.append(inside[badness.index(min(badness))])
    return placed


def _box(anchor: tuple[float, float], width: float, direction: tuple[int, int], distance: float) -> Box:
    """The box whose side or corner is `distance` away from the anchor."""
    (x, y), (right, down) = anchor, direction
    reach = distance / math.hypot(right, down)
    left = x + reach if right > 0 else x - reach - width if right < 0 else x - width / 2
    top = y + reach if down > 0 else y - reach - HEIGHT if down < 0 else y - HEIGHT / 2
    return Box(left, top, left + width, top + HEIGHT)


def _leader(candidate: Placed) -> Box:
    """The box around the line from a label to its anchor."""
    (x, y), (near_x, near_y) = candidate.anchor, candidate.box.nearest(*candidate.anchor)
    return Box(min(x, near_x), min(y, near_y), max(x, near_x), max(y, near_y))


def _collisions(candidate: Placed, placed: Sequence[Placed]) -> int:
    leader = _leader(candidate)
    return sum(candidate.box.overlaps(other.box) or leader.overlaps(other.box) for other in placed)


def _counts(boxes: Sequence[Box], dots: Dots) -> list[int]:
    """Return how many dots lie in each box."""
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes])
    left, top, right, bottom = edges.T[:, :, None]
    x, y = dots.T
    counts: list[int] = ((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).sum(axis=1).tolist()
    return counts


def _distance(anchor: tuple[float, float], others: Dots) -> float:
    """Return how far the nearest other line is, up to `ALONE`."""
    distances: list[float] = np.hypot(*(others - anchor).T).tolist()
    return min([ALONE, *distances])


def _dots(line: Sequence[tuple[float, float]]) -> Dots:
    """Return dots along a line, about `STRIDE` apart."""
    pieces = [np.array(line[:1])]
    for start, end in pairwise(line):
        count = max(1, round(math.dist(start, end) / STRIDE))
        pieces.append(np.linspace(start, end, count + 1)[1:])
    return np.concatenate(pieces)
