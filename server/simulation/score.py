"""How well a simulated run went: how often the model turned round, and how often too late."""

from collections.abc import Sequence
from itertools import pairwise

from flexquant.server.simulation.plant import Tick


def reversals(ticks: list[Tick]) -> int:
    """How often the direction of the ordered moves changed."""
    directions = [
        1 if now.target > before.target else -1 for before, now in pairwise(ticks) if now.target != before.target
    ]
    return sum(first != second for first, second in pairwise(directions))


def regrets(ticks: list[Tick], within: float) -> int:
    """How many growths were followed by a shrink within so many seconds."""
    count, grown = 0, None
    for before, now in pairwise(ticks):
        if now.target < before.target:
            grown = now.at
        elif now.target > before.target:
            if grown is not None and now.at - grown < within:
                count += 1
            grown = None
    return count


def late_seconds(ticks: list[Tick], footprints: Sequence[int], critical: int, *, ordered: bool) -> float:
    """For how long less than `critical` bytes were available although the model could still give back.

    Args:
        ticks: Of a run.
        footprints: Of the model.
        critical: Bytes.
        ordered: Count what was ordered as given back already: what remains is the law's own lateness, and not the time
            that a release takes.
    """
    late, target = 0.0, ticks[0].position
    for tick in ticks:
        coming = footprints[tick.position] - footprints[target] if ordered else 0
        if tick.available + max(coming, 0) < critical and target < len(footprints) - 1:
            late += tick.lasts
        target = tick.target
    return late
