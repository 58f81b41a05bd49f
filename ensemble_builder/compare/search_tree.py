"""What a search measured, as a tree: nodes by footprint and KL, each hanging from the one it was reached from. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from flexquant.engine.errors import InputError
from flexquant.ensemble_builder.sequence import Assignment, Unit, footprint

Node = tuple[int, float]
"""(footprint, KL)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A search, drawn.

    Args:
        taken: Nodes along the sequence that was found.
        greedy: Nodes along the first stem, greedy by sensitivity.
        branches: Every other measured assignment: the node it was reached from, and its own.
        single: How many of the branches are sensitivities, measured from position 0.
    """

    taken: tuple[Node, ...]
    greedy: tuple[Node, ...]
    branches: tuple[tuple[Node, Node], ...]
    single: int

    @property
    def nodes(self) -> int:
        """All measured assignments."""
        on_stems = {*self.taken, *self.greedy}
        return len(on_stems) + len(self.branches)


def read_searched(path: Path) -> list[tuple[Assignment, float]] | None:
    """Return what a build measured, in that order; None if the build kept no journal.

    Raises:
        InputError: It is damaged.
    """
    try:
        _, *lines = path.read_text().splitlines()
        return [_entry(json.loads(line)) for line in lines]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="Move it away to compare without it.") from error


def tree_of(
    units: Sequence[Unit],
    searched: Sequence[tuple[Assignment, float]],
    taken: Iterable[Assignment],
    greedy: Iterable[Assignment],
    fixed_bytes: int,
) -> Tree | None:
    """Return the tree of a search by single units; None if a stem is not among what was measured.

    Args:
        units: What was lowered.
        searched: See `read_searched`.
        taken: Assignments along the sequence that was found.
        greedy: Assignments along greedy by sensitivity.
        fixed_bytes: Resident bytes that no position changes.
    """
    losses = {state: loss for state, loss in searched if len(state) == len(units)}

    def node(state: Assignment) -> Node:
        return fixed_bytes + footprint(units, state), losses[state]

    taken, greedy = tuple(taken), tuple(greedy)
    stems = {*taken, *greedy}
    if not stems <= losses.keys():
        return None
    branches = [
        (node(parent), node(state))
        for state in losses
        if state not in stems and (parent := _parent(state, losses, stems)) is not None
    ]
    single = sum(sum(1 for variant in state if variant) == 1 for state in losses if state not in stems)
    return Tree(tuple(map(node, taken)), tuple(map(node, greedy)), tuple(branches), single)


def above_taken(tree: Tree) -> Tree:
    """Return the tree with every KL less the taken sequence's at the same footprint, linear between its positions.

    The sequence itself becomes the zero line, and what hardly differs from it can be told apart.
    """

    def above(node: Node) -> Node:
        size, loss = node
        for (high, before), (low, after) in pairwise(tree.taken):
            if low <= size <= high:
                return size, loss - (before + (high - size) / (high - low) * (after - before))
        return size, loss

    branches = tuple((above(start), above(end)) for start, end in tree.branches)
    return Tree(tuple(map(above, tree.taken)), tuple(map(above, tree.greedy)), branches, tree.single)


def without_tallest(tree: Tree, share: float) -> tuple[Tree, int]:
    """Return the tree without the branches that rise highest, and how many those are.

    Args:
        tree: See `above_taken`.
        share: At most this share of the branches is left out.
    """
    heights = sorted(end for _, (_, end) in tree.branches)
    kept = len(heights) - int(share * len(heights))
    highest = max([*heights[:kept], *(loss for _, loss in tree.greedy)], default=0.0)
    low = tuple(branch for branch in tree.branches if branch[1][1] <= highest)
    return Tree(tree.taken, tree.greedy, low, tree.single), len(tree.branches) - len(low)


def _parent(state: Assignment, losses: dict[Assignment, float], stems: set[Assignment]) -> Assignment | None:
    """The measured assignment one step above: one of a stem if there is one, else that of least loss."""
    above = [(*state[:unit], variant - 1, *state[unit + 1 :]) for unit, variant in enumerate(state) if variant]
    known = [found for found in above if found in losses]
    return min(known, key=lambda found: (found not in stems, losses[found]), default=None)


def _entry(entry: Any) -> tuple[Assignment, float]:
    return tuple(entry["state"]), float(entry["kl"])
