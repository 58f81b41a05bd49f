"""Where the modules of a running model are: their specs, and the arenas they lie in at this moment."""

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.manifest import modules_by_linear
from flexquant.engine.memory.arena import Arena
from flexquant.engine.residency import Residency
from flexquant.engine.swap import Swapper


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
        # A module keeps its bundle and its place among the bundle's modules at every position.
        self._places = {
            place.module: (bundle, number)
            for bundle, block in enumerate(residency.blocks(0))
            for number, place in enumerate(block.placed)
        }
        self.modules = {
            key: [module.name for module in modules] for key, modules in modules_by_linear(ensemble.manifest).items()
        }
        """By key of every linear layer: its module, or its slices in the order of their columns."""

    @property
    def published(self) -> int:
        """Changes whenever a module may lie elsewhere."""
        return self._swapper.published

    def find(self, module: str) -> tuple[int, Exl2Spec, Arena, int]:
        """Variant of a module that is resident, its spec, its arena and its offset in bytes there."""
        bundle, number = self._places[module]
        block, arena = self._swapper.resident(bundle)
        place = block.placed[number]
        return place.variant, self._specs[module][place.variant], arena, place.offset
