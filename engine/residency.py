"""Which weights are resident at which position, in which arenas, and what each step changes. Pure.

Modules that move in the same transitions of a sequence form a *bundle*: they share one arena at every position, so a
transition frees whole arenas. With two levels a bundle is exactly the modules of one transition; with more levels it
is finer where transitions overlap only in part. A bundle passes through its *stages*, one more than it has
transitions; a *block* is what its arena holds at one stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Placed:
    """A module's variant inside a block."""

    module: str
    variant: int
    offset: int
    size: VariantSize


@dataclass(frozen=True, slots=True)
class Block:
    """The contents of one arena: the variants of a bundle's modules, one after the other."""

    placed: tuple[Placed, ...]

    @property
    def payload(self) -> int:
        """Bytes of all tensors in the block."""
        return sum(place.size.payload for place in self.placed)

    @property
    def length(self) -> int:
        """Bytes from the first to the last module."""
        last = self.placed[-1]
        return last.offset + last.size.span

    @property
    def mapped(self) -> int:
        """Bytes of the arena: `length` in whole pages."""
        return page_rounded(self.length)


@dataclass(frozen=True, slots=True)
class Change:
    """One bundle's arena changes its block."""

    bundle: int
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

        self._thresholds = list(bundles)
        self._stages: list[list[Block]] = []
        # By transition: the bundles that it takes from which stage to the next.
        self._passing: list[list[tuple[int, int]]] = [[] for _ in transitions]
        for bundle, (thresholds, modules) in enumerate(bundles.items()):
            variants = [[0, *(variant for _, variant in moves[module])] for module in modules]
            stages = [
                _block(modules, [of_module[stage] for of_module in variants], sizes)
                for stage in range(len(thresholds) + 1)
            ]
            for stage, position in enumerate(thresholds):
                old, new = stages[stage], stages[stage + 1]
                self._passing[position - 1].append((bundle, stage))
                if new.mapped > old.mapped:
                    raise EnsembleError(
                        f"transition {position} makes {', '.join(modules)} larger: "
                        f"from {old.length} to {new.length} bytes",
                        hint="Build the ensemble again with a lower level that is smaller in every module.",
                    )
            self._stages.append(stages)
        self._mapped = self._totals(lambda block: block.mapped)
        self._payload = self._totals(lambda block: block.payload)
        self.spare_bytes = max((self._spare_needed(position) for position in range(self.max_position)), default=0)

    def blocks(self, position: int) -> list[Block]:
        """The block of every bundle at `position`."""
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
        for bundle, stage in self._passing[min(start, end)]:
            old, new = self._stages[bundle][stage], self._stages[bundle][stage + 1]
            if end < start:
                old, new = new, old
            changes.append(Change(bundle, old, new, spare_offset))
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
            changes = [(self._stages[bundle][stage], self._stages[bundle][stage + 1]) for bundle, stage in passing]
            totals.append(totals[-1] + sum(size(new) - size(old) for old, new in changes))
        return totals

    def _spare_needed(self, position: int) -> int:
        return sum(change.new.mapped for change in self.step(position, position + 1).changes)

    def _check(self, position: int) -> None:
        if not 0 <= position <= self.max_position:
            raise ValueError(f"position {position} is outside 0..{self.max_position}")


def module_bytes(block: Block) -> Mapping[str, ModuleBytes]:
    """The registry's entries of a resident block; the rest of the last page belongs to the last module."""
    entries = {place.module: ModuleBytes(place.size.payload, place.size.span) for place in block.placed}
    last = block.placed[-1]
    entries[last.module] = ModuleBytes(last.size.payload, block.mapped - last.offset)
    return entries


def _block(modules: Sequence[str], variants: Sequence[int], sizes: Mapping[str, Sequence[VariantSize]]) -> Block:
    placed: list[Placed] = []
    offset = 0
    for module, variant in zip(modules, variants, strict=True):
        size = sizes[module][variant]
        placed.append(Placed(module, variant, offset, size))
        offset += size.span
    return Block(tuple(placed))


def _stage(thresholds: Sequence[int], position: int) -> int:
    """How many of a bundle's transitions lie behind at `position`."""
    return sum(threshold <= position for threshold in thresholds)
