"""Exhaustive greedy: at every step every candidate is measured and the cheapest per byte is taken.

On small models it is the practical optimum; a model of hundreds of modules cannot afford it. Pure, but for the journal.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexquant.engine.manifest import Quality
from flexquant.ensemble_builder.journal_lines import JournalLines
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.sequence import Assignment, Order, Unit, best, lowered

Loss = Callable[[Assignment, Assignment], float]
"""Loss of the second assignment, which differs from the first in one unit."""

Evaluation = Callable[[Assignment, Sequence[Assignment]], list[Quality]]
"""Measures candidates that differ little from a stem: an `EqmEvaluation`."""


@dataclass(frozen=True, slots=True)
class Exhaustive:
    """What exhaustive greedy found, and what it took.

    Args:
        order: The order.
        evaluations: Assignments that were measured.
        minutes: Time for them, over all runs.
    """

    order: Order
    evaluations: int
    minutes: float


def evaluations_of(units: Sequence[Unit]) -> int:
    """Return the most evaluations that exhaustive greedy can take; where each unit has two variants, all of them."""
    transitions, movable = sum(unit.steps for unit in units), sum(unit.steps > 0 for unit in units)
    return 1 + sum(min(movable, transitions - done) for done in range(transitions))


def exhaustive_order(units: Sequence[Unit], loss: Loss) -> Order:
    """Return the order that takes the candidate of least added loss per byte at every step.

    Args:
        units: What is lowered.
        loss: Measures; asked for every candidate of every step, the first unit first.
    """
    state, order = best(units), list[int]()
    here = loss(state, state)
    while waiting := [index for index, unit in enumerate(units) if state[index] < unit.steps]:
        found = {index: loss(state, lowered(state, index)) for index in waiting}
        chosen = min(waiting, key=lambda index: ((found[index] - here) / _saved(units[index], state[index]), index))
        state, here = lowered(state, chosen), found[chosen]
        order.append(chosen)
    return tuple(order)


def measured_exhaustive(
    units: Sequence[Unit], evaluation: Evaluation, journal: Path, fingerprint: str, progress: Progress
) -> Exhaustive:
    """Run exhaustive greedy on real stores; what the journal knows is not measured again.

    Args:
        units: What is lowered.
        evaluation: Measures assignments.
        journal: File of the journal; its folder exists.
        fingerprint: What the losses depend on.
        progress: Is told every evaluation.
    """
    with JournalLines(journal, fingerprint, _parse) as lines:
        known = {state: kl for state, kl, _ in lines.entries}
        seconds = sum(spent for _, _, spent in lines.entries)
        with progress.stage("exhaustive greedy", evaluations_of(units), done=len(known)) as stage:

            def loss(stem: Assignment, state: Assignment) -> float:
                nonlocal seconds
                if state not in known:
                    started = time.monotonic()
                    known[state] = evaluation(stem, [state])[0].kl
                    spent = round(time.monotonic() - started, 3)
                    seconds += spent
                    lines.add({"state": state, "kl": known[state], "seconds": spent})
                    stage.advance()
                return known[state]

            order = exhaustive_order(units, loss)
    return Exhaustive(order, len(known), seconds / 60)


def _saved(unit: Unit, variant: int) -> int:
    return unit.sizes[variant] - unit.sizes[variant + 1]


def _parse(entry: Any) -> tuple[Assignment, float, float]:
    return tuple(entry["state"]), float(entry["kl"]), float(entry["seconds"])
