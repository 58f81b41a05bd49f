"""Which weights are resident at which position, in which arenas, and what each step changes. Pure.

Modules that move in the same transitions of a sequence form a *bundle*: they share one arena at every position, so a
transition frees whole arenas. With two levels a bundle is exactly the modules of one transition; with more levels it
is finer where transitions overlap only in part. A *block* is what an arena holds at one stage; a transition takes an
arena from one stage to the next.

Where levels are nested, a variant consists of residuals and of what they are added to. Then a bundle has an arena for
each: the residuals' one is there or empty, and the other does not change when they go. What a level of an Any-Precision
model has, planes and tables beside those of the narrower ones, is residuals in this sense.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from flexquant.engine.errors import EnsembleError
from flexquant.engine.manifest import TransitionSequence
from flexquant.engine.memory.arena import page_rounded
from flexquant.engine.memory.registry import ModuleBytes


@dataclass(frozen=True, slots=True)
class VariantSize:
    """One variant of a module."""

    payload: int
    """Bytes of its tensors."""
    span: int
    """Bytes it takes in an arena, alignment included."""
    residual: bool = False
    """Whether it is of use only together with the next variant, which then has to be there, too."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A module's variant inside a block, or the residuals of one."""

    module: str
    variant: int
    offset: int
    size: VariantSize

    @property
    def name(self) -> str:
        """In the books: the module's, or that of its residuals."""
        return f"{self.module}+{self.variant}" if self.size.residual else self.module


@dataclass(frozen=True)
class Block:
    """The contents of one arena: the variants of a bundle's modules, one after the other. Empty: there is no arena."""

    placed: tuple[Placed, ...]

    @cached_property
    def by_module(self) -> Mapping[str, Placed]:
        """Where each module is."""
        return {place.module: place for place in self.placed}

    @property
    def payload(self) -> int:
        """Bytes of all tensors in the block."""
        return sum(place.size.payload for place in self.placed)

    @property
    def length(self) -> int:
        """Bytes from the first to the last module."""
        return self.placed[-1].offset + self.placed[-1].size.span if self.placed else 0

    @property
    def mapped(self) -> int:
        """Bytes of the arena: `length` in whole pages."""
        return page_rounded(self.length)


@dataclass(frozen=True, slots=True)
class Change:
    """An arena changes its block."""

    arena: int
    old: Block
    new: Block
    spare_offset: int
    """Where the new block lies in the spare while a shrinking step waits to be published."""


@dataclass(frozen=True, slots=True)
class Step:
    """What it takes to go from one position to a neighbour."""

    start: int
    end: int
    changes: tuple[Change, ...]

    @property
    def shrinks(self) -> bool:
        """Whether the step goes down the sequence, to less memory."""
        return self.end > self.start

    @property
    def reads(self) -> bool:
        """Whether anything has to be read; not where residuals go."""
        return any(change.new.placed for change in self.changes)


class Residency:
    """The plan of one sequence: blocks at every position, and the steps between neighbours.

    Args:
        sequence: Its transitions.
        sizes: Sizes of all variants of every module, best first.

    Raises:
        EnsembleError: A transition would make an arena longer, so it could not shrink in place.
    """

    def __init__(self, sequence: TransitionSequence, sizes: Mapping[str, Sequence[VariantSize]]) -> None:
        transitions = sequence.transitions
        self.max_position = len(transitions)
        moves: dict[str, list[tuple[int, int]]] = {module: [] for module in sizes}  # (position reached, variant)
        for position, transition in enumerate(transitions, start=1):
            for move in transition.moves:
                moves[move.module].append((position, move.to_variant))
        bundles: dict[tuple[int, ...], list[str]] = {}
        for module, moved in moves.items():
            bundles.setdefault(tuple(position for position, _ in moved), []).append(module)

        self._thresholds: list[tuple[int, ...]] = []  # by arena: the positions at which its block changes
        self._stages: list[list[Block]] = []
        # By transition: the arenas that it takes from which stage to the next.
        self._passing: list[list[tuple[int, int]]] = [[] for _ in transitions]
        for positions, modules in bundles.items():
            for thresholds, stages in _arenas_of(modules, positions, moves, sizes):
                for stage, position in enumerate(thresholds):
                    old, new = stages[stage], stages[stage + 1]
                    self._passing[position - 1].append((len(self._stages), stage))
                    if new.mapped > old.mapped:
                        raise EnsembleError(
                            f"transition {position} makes {', '.join(modules)} larger: "
                            f"from {old.length} to {new.length} bytes",
                            hint="Build the ensemble again with a lower level that is smaller in every module.",
                        )
                self._thresholds.append(thresholds)
                self._stages.append(stages)
        self._mapped = self._totals(lambda block: block.mapped)
        self._payload = self._totals(lambda block: block.payload)
        self.spare_bytes = max((self._spare_needed(position) for position in range(self.max_position)), default=0)

    def blocks(self, position: int) -> list[Block]:
        """What every arena holds at `position`."""
        self._check(position)
        return [
            stages[_stage(thresholds, position)]
            for thresholds, stages in zip(self._thresholds, self._stages, strict=True)
        ]

    def step(self, start: int, end: int) -> Step:
        """The changes from position `start` to its neighbour `end`."""
        self._check(start)
        self._check(end)
        if abs(end - start) != 1:
            raise ValueError(f"positions {start} and {end} are no neighbours")
        changes: list[Change] = []
        spare_offset = 0
        for arena, stage in self._passing[min(start, end)]:
            old, new = self._stages[arena][stage], self._stages[arena][stage + 1]
            if end < start:
                old, new = new, old
            changes.append(Change(arena, old, new, spare_offset))
            spare_offset += new.mapped
        return Step(start, end, tuple(changes))

    def mapped(self, position: int) -> int:
        """Bytes of all arenas at `position`."""
        self._check(position)
        return self._mapped[position]

    def payload(self, position: int) -> int:
        """Bytes of all tensors in the arenas at `position`."""
        self._check(position)
        return self._payload[position]

    def _totals(self, size: Callable[[Block], int]) -> list[int]:
        """A size of all arenas together at every position; step by step, as there may be thousands of both."""
        totals = [sum(size(stages[0]) for stages in self._stages)]
        for passing in self._passing:
            changes = [(self._stages[arena][stage], self._stages[arena][stage + 1]) for arena, stage in passing]
            totals.append(totals[-1] + sum(size(new) - size(old) for old, new in changes))
        return totals

    def _spare_needed(self, position: int) -> int:
        return sum(change.new.mapped for change in self.step(position, position + 1).changes)

    def _check(self, position: int) -> None:
        if not 0 <= position <= self.max_position:
            raise ValueError(f"position {position} is outside 0..{self.max_position}")


def module_bytes(block: Block) -> Mapping[str, ModuleBytes]:
    """The registry's entries of a resident block; the rest of the last page belongs to the last module."""
    entries = {place.name: ModuleBytes(place.size.payload, place.size.span) for place in block.placed}
    for last in block.placed[-1:]:
        entries[last.name] = ModuleBytes(last.size.payload, block.mapped - last.offset)
    return entries


_Moves = Mapping[str, Sequence[tuple[int, int]]]
"""By module: the positions at which it changes, and to which variant."""


def _arenas_of(
    modules: Sequence[str], positions: tuple[int, ...], moves: _Moves, sizes: Mapping[str, Sequence[VariantSize]]
) -> Iterator[tuple[tuple[int, ...], list[Block]]]:
    """The arenas of a bundle: the positions at which each changes, and its blocks before and after these."""
    by_residuals: dict[int, list[str]] = {}
    for module in modules:
        by_residuals.setdefault(sum(size.residual for size in sizes[module]), []).append(module)
    for residuals, alike in by_residuals.items():
        variants = {module: [0, *(variant for _, variant in moves[module])] for module in alike}
        # Residuals come first among a module's variants, so what is no residual is resident from the start.
        yield _merged(
            positions,
            [
                _block({module: max(variants[module][stage], residuals) for module in alike}, sizes)
                for stage in range(len(positions) + 1)
            ],
        )
        for number in range(residuals):
            yield _merged(
                positions,
                [
                    _block({module: number for module in alike if variants[module][stage] <= number}, sizes)
                    for stage in range(len(positions) + 1)
                ],
            )


def _merged(positions: tuple[int, ...], stages: Sequence[Block]) -> tuple[tuple[int, ...], list[Block]]:
    """Leave out the positions at which nothing changes."""
    changing = [at for at, (old, new) in enumerate(pairwise(stages)) if old != new]
    return tuple(positions[at] for at in changing), [stages[0], *(stages[at + 1] for at in changing)]


def _block(variants: Mapping[str, int], sizes: Mapping[str, Sequence[VariantSize]]) -> Block:
    placed: list[Placed] = []
    offset = 0
    for module, variant in variants.items():
        size = sizes[module][variant]
        placed.append(Placed(module, variant, offset, size))
        offset += size.span
    return Block(tuple(placed))


def _stage(thresholds: Sequence[int], position: int) -> int:
    """How often an arena has changed on the way to `position`."""
    return sum(threshold <= position for threshold in thresholds)
