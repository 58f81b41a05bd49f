"""The linear layers of a running model as the native kernels take them: parts that share rounded inputs."""

import ctypes
from collections.abc import Sequence

from flexquant.engine.any_precision.arena_layout import PlanesLayout
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.groups import Run
from flexquant.engine.exl2.spec import Exl2Spec
from flexquant.engine.manifest import modules_by_linear
from flexquant.engine.model_config import HEAD, ModelConfig
from flexquant.engine.native import structs
from flexquant.engine.native.layouts import ArenaLayout, layout_of
from flexquant.engine.native.library import load
from flexquant.engine.places import Places


class Linears:
    """Engine thread only: what it answers is good until the next safe point.

    Args:
        ensemble: Whose layers.
        places: Where their modules are.
    """

    def __init__(self, ensemble: Ensemble, places: Places) -> None:
        self._places = places
        self._layouts: dict[tuple[str, int], tuple[ArenaLayout, ctypes.Array[structs.Run]]] = {}
        runs: dict[tuple[Run, ...], ctypes.Array[structs.Run]] = {}  # slices of a layer have the same
        for module, specs in ensemble.specs.items():
            for variant, spec in enumerate(specs):
                layout = layout_of(spec)
                alike = spec.runs if isinstance(spec, Exl2Spec) else ()
                if alike not in runs:
                    runs[alike] = layout.runs()
                self._layouts[module, variant] = layout, runs[alike]
        self._parts = {key: (structs.Part * len(modules))() for key, modules in places.modules.items()}
        most = max((len(specs) for specs in ensemble.specs.values()), default=0)
        self._residuals = {module: (structs.Matrix * most)() for module in ensemble.specs}
        self._known: dict[str, tuple[tuple[int, int], ...]] = {}  # by module: variants and addresses of its matrices

    def together(self, keys: Sequence[str]) -> list[structs.Linear]:
        """Layers that take the same inputs: each rounded form of these is made once for all parts that need it."""
        forms: dict[object, int] = {}
        return [self._linear(key, forms) for key in keys]

    def matrices(self, module: str) -> list[tuple[int, structs.Matrix, ArenaLayout]]:
        """The matrix of a module, and what finer levels have beyond it, from coarse to fine, with their variants."""
        found = []
        for variant, address in self._find(module):
            layout, runs = self._layouts[module, variant]
            matrix = layout.matrix(runs)
            layout.place(matrix, address)
            found.append((variant, matrix, layout))
        return found

    def addends(self, module: str) -> tuple[int, list[structs.Matrix], ArenaLayout]:
        """Variant of a module, the matrices whose weights add up to its own, and the layout of the first.

        Of Any-Precision that is one, with the planes of all levels that are there.
        """
        found = self.matrices(module)
        layout = found[0][2]
        planes = isinstance(layout, PlanesLayout)
        return found[-1][0], [self._chained(module)] if planes else [matrix for _, matrix, _ in found], layout

    def _linear(self, key: str, forms: dict[object, int]) -> structs.Linear:
        parts = self._parts[key]
        blocks = out_features = words = 0
        for part, module in zip(parts, self._places.modules[key], strict=True):
            found = self._find(module)
            layouts = [self._layouts[module, variant][0] for variant, _ in found]
            layout = layouts[0]
            if self._known.get(module) != found:
                part.matrix = self._chained(module)
                self._known[module] = found
            part.first_block = blocks
            part.inputs = forms.setdefault(layout.rounding, len(forms))
            blocks += layout.blocks
            out_features += layout.spec.out_features
            words = max(words, sum(each.words for each in layouts))
        return structs.Linear(ctypes.addressof(parts), len(parts), blocks, out_features, words)

    def _chained(self, module: str) -> structs.Matrix:
        """A module's matrix, which leads to what finer levels have beyond it."""
        (_, first, _), *others = self.matrices(module)
        memory = self._residuals[module]
        last = first
        for number, (_, matrix, _) in enumerate(others):
            memory[number] = matrix
            last.residual = ctypes.addressof(memory[number])
            last = memory[number]
        return first

    def _find(self, module: str) -> tuple[tuple[int, int], ...]:
        """Variants and addresses of a module's matrices."""
        return tuple((lying.variant, lying.arena.address + lying.offset) for lying in self._places.find(module))


def keys_of_layer(config: ModelConfig, layer: int) -> tuple[tuple[str, ...], ...]:
    """A layer's linear layers in the order of the kernels, those with the same inputs together."""
    q, k, v, o, gate, up, down = (shape.key for shape in config.linears() if shape.layer == layer)
    return (q, k, v), (o,), (gate, up), (down,)


def most_rounded_bytes(ensemble: Ensemble, rows: int) -> int:
    """Most that rounded inputs of so many rows take at once, whichever variants are resident."""
    config, modules, library = ensemble.config, modules_by_linear(ensemble.manifest), load()
    most = 0
    for keys in [*(keys for layer in range(config.layers) for keys in keys_of_layer(config, layer)), (HEAD,)]:
        names = [module.name for key in keys for module in modules[key]]
        layouts = [layout_of(spec) for name in names for spec in ensemble.specs[name]]
        forms = {layout.rounding: layout.units for layout in layouts}  # those of residuals are those of others
        resident = sorted(forms.values(), reverse=True)[: len(names)]  # a module has one variant at a time
        most = max(most, sum(int(library.fq_rounded_bytes(rows, units)) for units in resident))
    return most
