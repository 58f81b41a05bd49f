"""What the transitions of a sequence lower: projections or slices of them, blocks, layers.

A search knows units and their variants alone. Measuring and the manifest speak of modules, so that searches over
different units share what was measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import Module
from flexquant.engine.model_config import HEAD
from flexquant.ensemble_builder.sequence import Assignment, Unit

Kind = Literal["projection", "block", "layer"]

KINDS: Final[tuple[Kind, ...]] = ("projection", "block", "layer")


@dataclass(frozen=True, slots=True)
class Units:
    """Units, and the modules that each of them consists of.

    Args:
        units: In forward order.
        members: Indices of each unit's modules.
        variants: [unit][variant]: the variant of each of its modules.
    """

    units: tuple[Unit, ...]
    members: tuple[tuple[int, ...], ...]
    variants: tuple[tuple[tuple[int, ...], ...], ...]

    def modules_at(self, state: Assignment) -> Assignment:
        """Return the variant of every module where the units are at `state`."""
        found = {
            module: variant
            for members, variants, at in zip(self.members, self.variants, state, strict=True)
            for module, variant in zip(members, variants[at], strict=True)
        }
        return tuple(found[module] for module in range(len(found)))


def parse_kinds(texts: Sequence[str]) -> tuple[Kind, ...]:
    """Parse lists such as "projection,block"; none of them mean projections alone.

    Raises:
        UsageError: One of them does not exist or is named twice.
    """
    asked = [part.strip() for text in texts for part in text.split(",")] or [KINDS[0]]
    found: list[Kind] = []
    for name in asked:
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None or kind in found:
            why = "is named twice" if kind in found else "is no unit"
            raise UsageError(f"--unit {','.join(asked)}: {name!r} {why}", hint=f"Units are {', '.join(KINDS)}.")
        found.append(kind)
    return tuple(found)


def units_of(modules: Sequence[Module], levels: Sequence[str], kind: Kind) -> Units:
    """Return the units of a kind. The head is a unit by itself, or each of its slices where projections are units.

    Args:
        modules: In forward order.
        levels: Names of the levels, from best to smallest.
        kind: What a unit is; "projection" stands for modules, which are slices where layers are cut.
    """
    return _grouped(modules, levels, lambda module: _unit_name(module, kind))


def manifest_unit(modules: Sequence[Module], kind: Kind) -> Literal["projection", "slice", "block", "layer"]:
    """Return what the manifest calls a unit of this kind."""
    return "slice" if kind == "projection" and any(module.columns for module in modules) else kind


def _unit_name(module: Module, kind: Kind) -> str:
    if kind == "projection":
        return module.name
    if module.linear == HEAD:
        return HEAD
    block, _ = module.linear.rsplit(".", 1)  # such as model.layers.0.mlp
    return block if kind == "block" else block.rsplit(".", 1)[0]


def _grouped(modules: Sequence[Module], levels: Sequence[str], name_of: Callable[[Module], str]) -> Units:
    """Group neighbouring modules of equal name.

    At a level each of them has its last variant of that level or above, or its first one where these were pruned.
    """
    rank = {level: at for at, level in enumerate(levels)}
    units, members, variants = [], [], []
    for name, group in groupby(enumerate(modules), lambda numbered: name_of(numbered[1])):
        inside = list(group)
        found = [
            tuple(max(0, sum(rank[variant.level] <= at for variant in module.variants) - 1) for _, module in inside)
            for at in range(len(levels))
        ]
        distinct = tuple(dict.fromkeys(found))
        sizes = tuple(
            sum(module.variants[variant].bytes for (_, module), variant in zip(inside, each, strict=True))
            for each in distinct
        )
        units.append(Unit(name, sizes))
        members.append(tuple(index for index, _ in inside))
        variants.append(distinct)
    return Units(tuple(units), tuple(members), tuple(variants))
