"""Where the modules of a running model are: their specs, and the arenas they lie in at this moment."""

from collections.abc import Iterable
from typing import NamedTuple

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.manifest import modules_by_linear
from flexquant.engine.memory.arena import Arena
from flexquant.engine.residency import Residency
from flexquant.engine.swap import Swapper


class Lying(NamedTuple):
    """A variant of a module, or what one has beyond the next, in an arena."""

    variant: int
    spec: LayerSpec
    arena: Arena
    offset: int
    """In bytes."""


class Places:
    """Finds modules. Engine thread only: what it answers is good until the next safe point.

    Args:
        ensemble: Whose modules.
        residency: The plan that the swapper follows.
        swapper: Owns the arenas.
    """

    def __init__(self, ensemble: Ensemble, residency: Residency, swapper: Swapper) -> None:
        self._specs = ensemble.specs
        self._swapper = swapper
        # A module stays in the same arenas, or is not there: what stands alone in the first, its residuals in others.
        arenas: dict[str, list[tuple[int, int]]] = {}
        for arena, block in enumerate(residency.blocks(0)):
            for place in block.placed:
                arenas.setdefault(place.module, []).append((place.variant, arena))
        self._arenas = {module: [arena for _, arena in sorted(found, reverse=True)] for module, found in arenas.items()}
        self.modules = {
            key: [module.name for module in modules] for key, modules in modules_by_linear(ensemble.manifest).items()
        }
        """By key of every linear layer: its module, or its slices in the order of their columns."""

    @property
    def published(self) -> int:
        """Changes whenever a module may lie elsewhere."""
        return self._swapper.published

    def arenas(self, keys: Iterable[str]) -> tuple[int, ...]:
        """In which arenas of the plan these linear layers ever are."""
        modules = [module for key in keys for module in self.modules[key]]
        return tuple(sorted({arena for module in modules for arena in self._arenas[module]}))

    def moved(self, arenas: Iterable[int], published: int) -> bool:
        """Whether what lies in one of these arenas may lie elsewhere than when `published` had that value."""
        return any(self._swapper.changed_at(arena) > published for arena in arenas)

    def find(self, module: str) -> list[Lying]:
        """Where a module is: first what stands alone, then the residuals that are there, from coarse to fine.

        The last one's variant is the module's.
        """
        found = []
        for number in self._arenas[module]:
            block, arena = self._swapper.resident(number)
            place = block.by_module.get(module)
            if place is not None and arena is not None:
                found.append(Lying(place.variant, self._specs[module][place.variant], arena, place.offset))
        return found
