"""How well a simulated run went: how often the model turned round, and how often too late."""

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
