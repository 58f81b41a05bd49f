"""Runs searches on real stores: measures hybrids, keeps the journal, shows progress, keeps to the budget."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from flexquant.engine.manifest import FileRecord, Module, Quality
from flexquant.ensemble_builder.evaluation import Windows
from flexquant.ensemble_builder.executor import Executor
from flexquant.ensemble_builder.journal import Journal
from flexquant.ensemble_builder.options import SearchOptions
from flexquant.ensemble_builder.progress import Progress, Stage
from flexquant.ensemble_builder.search import Found, least_evaluations, search
from flexquant.ensemble_builder.sequence import Assignment, Unit, states_along
from flexquant.ensemble_builder.units import Units

EVALUATIONS_PER_TRANSITION: Final = 5
"""Default budget; two are needed anyway. On a trained model between 8 and 2 bits (57 transitions), four came within
0.2 % of the area that exhaustive greedy finds with 1,653 evaluations, six found a smaller one, and more gained nothing;
five are less than a fifth of what that takes.
"""


@dataclass(frozen=True, slots=True)
class Searched:
    """A finished search.

    Args:
        units: What transitions lower.
        found: The sequence.
        qualities: At positions 0..N.
        measured: The assignments of modules that it asked for.
        minutes: Time that this run took for it; an earlier one that was killed is not counted.
    """

    units: Units
    found: Found
    qualities: tuple[Quality, ...]
    measured: frozenset[Assignment]
    minutes: float


def fingerprint(files: Mapping[str, FileRecord], modules: Sequence[Module], windows: Windows, reference: str) -> str:
    """Return a hash of what measured qualities depend on.

    Args:
        files: The stores' files.
        modules: In the order of the assignments' entries.
        windows: The search text.
        reference: What names the model that KL is measured against.
    """
    known = {
        "stores": {name: record.sha256 for name, record in files.items() if name.endswith(".safetensors")},
        "modules": [module.name for module in modules],
        "text": windows.text.sha256,
        "windows": list(windows.tokens.shape),
        "reference": reference,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def default_evaluations(units: Sequence[Unit]) -> int:
    """Return how many evaluations a search may spend if nothing else is asked for."""
    return max(EVALUATIONS_PER_TRANSITION * sum(unit.steps for unit in units), 1)


def search_measured(
    name: str, units: Units, execute: Executor, options: SearchOptions, journal: Journal, progress: Progress
) -> Searched:
    """Search for a sequence; what the journal knows is not measured again.

    Args:
        name: Of the sequence, for people.
        units: What transitions lower.
        execute: Measures assignments of modules.
        options: The budget.
        journal: Of assignments of modules, so that searches over other units share it.
        progress: Is told every evaluation.
    """
    asked = default_evaluations(units.units) if options.evaluations is None else options.evaluations
    most = max(asked, least_evaluations(units.units))
    with progress.stage(f"searching by {name}", most) as stage:
        seconds = None if options.minutes is None else 60 * options.minutes

        def go_on(spent: int) -> bool:
            return spent < most and (seconds is None or stage.elapsed < seconds)

        measure = _Journaled(units, execute, journal, stage)
        found = search(units.units, measure, go_on=go_on)
        along = [journal.known[units.modules_at(state)] for state in states_along(units.units, found.order)]
        return Searched(units, found, tuple(along), frozenset(measure.asked), stage.elapsed / 60)


class _Journaled:
    """Answers from the journal where it can, and measures the rest. Idle workers measure what is likely to come."""

    def __init__(self, units: Units, execute: Executor, journal: Journal, stage: Stage) -> None:
        self._units = units
        self._execute = execute
        self._journal = journal
        self._stage = stage
        self._ahead: dict[Assignment, Quality] = {}
        self.asked: set[Assignment] = set()

    def __call__(self, stem: Assignment, candidates: Sequence[Assignment], likely: Iterator[Assignment]) -> list[float]:
        asked = [self._units.modules_at(candidate) for candidate in candidates]
        self.asked.update(asked)
        known = self._journal.known
        unknown = [state for state in asked if state not in known]
        self._stage.skip(len(asked) - len(unknown))
        to_measure = [state for state in unknown if state not in self._ahead]
        idle = self._execute.workers - len(to_measure)
        guessed = [self._units.modules_at(state) for state in islice(likely, idle)] if to_measure and idle > 0 else []
        guessed = [state for state in guessed if state not in known and state not in self._ahead]
        measured = self._execute(self._units.modules_at(stem), to_measure + guessed) if to_measure else iter(())
        for state in unknown:
            # What was measured ahead is noted when it is asked for, so that the journal is the same for any workers.
            self._journal.add(state, self._ahead.pop(state) if state in self._ahead else next(measured))
            self._stage.advance()
        self._ahead.update(zip(guessed, measured, strict=True))
        return [known[state].kl for state in asked]
