"""An ensemble that was not built: what its stores would hold, from the model's config alone.

Sizes are exact: the builder cuts rows into the same sections, and EXL2 says how many bytes these take. Nothing is
measured, so there are no qualities, and transitions stand in forward order, on which no size depends.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.exl2.groups import runs
from flexquant.engine.exl2.spec import COLUMN_MULTIPLE, Exl2Spec
from flexquant.engine.layer_spec import LayerSpec
from flexquant.engine.manifest import Manifest, Module, Move, Transition, TransitionSequence
from flexquant.engine.model_config import LinearShape, ModelConfig
from flexquant.engine.tensor_index import ITEM_BYTES, TensorEntry, TensorIndex
from flexquant.ensemble_builder.bit_allocation import Sections, allocate_levels
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.row_groups import groups_of
from flexquant.ensemble_builder.shared_inputs import input_of
from flexquant.ensemble_builder.stores import Store, level_of, modules_of, parameter_count

NOWHERE: Final = Path("planned")
"""The folder of what is not there."""
_FLOAT16: Final = 2
"""Bytes; embedding and norms are stored so."""


def planned_ensemble(
    config: ModelConfig,
    levels: Sequence[float],
    *,
    group_size: int,
    max_step: int | None = None,
    nested: bool = False,
    name: str = "",
) -> Ensemble:
    """Return the ensemble that `flexquant-build` would make with these settings, as far as sizes go.

    Args:
        config: The model's.
        levels: Bits of each level, falling; two or more.
        group_size: Weights per scale.
        max_step: Most bytes that a module gives back in one step; no limit if None.
        nested: Whether each level but the last is what it adds to the next one.
        name: Of the model.
    """
    stores = _stores(config, levels, group_size, nested=nested)
    modules = modules_of(stores, max_step)
    fixed = _FLOAT16 * sum(config.norms().values())
    manifest = Manifest.model_construct(
        name=name,
        architecture=config.architecture,
        method="exl2",
        parameters=parameter_count(config),
        levels=[level_of(store) for store in stores],
        modules=modules,
        sequences={"projection": _sequence(modules, fixed)},
        default_sequence="projection",
        fixed_bytes=fixed,
        embedding_bytes=_FLOAT16 * config.vocab_size * config.hidden_size,
        quantization=None,
        pruning=None,
        files={},
    )
    by_level = {store.level: store for store in stores}
    specs = {
        module.name: tuple(
            by_level[variant.level].specs[module.linear].sliced(module.columns) for variant in module.variants
        )
        for module in modules
    }
    return Ensemble(NOWHERE, manifest, config, TensorIndex(NOWHERE, {}), specs)


def stored_bytes(config: ModelConfig, levels: Sequence[float], group_size: int, *, nested: bool = False) -> int:
    """Return about how many bytes the files of an ensemble take: its levels, and the embedding that they share."""
    layers = [spec for store in _stores(config, levels, group_size, nested=nested) for spec in store.specs.values()]
    return _FLOAT16 * config.vocab_size * config.hidden_size + sum(spec.payload for spec in layers)


def _stores(config: ModelConfig, levels: Sequence[float], group_size: int, *, nested: bool) -> list[Store]:
    """From best to smallest."""
    shapes = config.linears()
    found: list[Store] = []
    for level, sections in reversed(
        [*zip(levels, allocate_levels(shapes, levels, group_size, nested=nested), strict=True)]
    ):
        below = found[-1] if nested and found else None
        specs: dict[str, LayerSpec] = {
            shape.key: _spec(shape, sections[shape.key], group_size, residual=below is not None)
            for shape in shapes
            if shape.key in sections
        }
        found.append(Store(level_name(level), level, TensorIndex(NOWHERE, {}), config, specs, below))
    return found[::-1]


def _spec(shape: LinearShape, sections: Sections, group_size: int, *, residual: bool) -> Exl2Spec:
    """A linear layer as `exl2_pack.pack` would pack it."""
    groups = groups_of(sections, group_size)
    table, words = [], 0
    for group in groups:
        table += [group.bits, words]
        words += group.rows * group.bits // 32
    padded = -(-shape.out_features // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "q_weight": ("I32", (words, padded)),
        "q_scale": ("I32", (len(groups), padded // 8)),
        "q_scale_max": ("F16", (len(groups),)),
        "q_groups": ("I16", (2 * len(groups),)),
    }
    if not residual:
        tensors["q_invperm"] = ("I32", (shape.in_features,))
        if shape.bias:
            tensors["bias"] = ("F16", (padded,))
    return Exl2Spec(
        key=shape.key,
        in_features=shape.in_features,
        out_features=shape.out_features,
        padded_out=padded,
        runs=runs(table, shape.in_features, words),
        entries={suffix: _entry(f"{shape.key}.{suffix}", *found) for suffix, found in tensors.items()},
        order=input_of(shape.key).encode(),
    )


def _entry(name: str, dtype: str, shape: tuple[int, ...]) -> TensorEntry:
    return TensorEntry(name, dtype, shape, NOWHERE, 0, math.prod(shape) * ITEM_BYTES[dtype])


def _sequence(modules: Sequence[Module], fixed_bytes: int) -> TransitionSequence:
    """Module after module goes all its way down."""
    transitions, footprints = [], [fixed_bytes + sum(module.variants[0].bytes for module in modules)]
    for module in modules:
        for start, (high, low) in enumerate(pairwise(module.variants)):
            transitions.append(Transition(moves=[Move(module=module.name, from_variant=start, to_variant=start + 1)]))
            footprints.append(footprints[-1] - high.bytes + low.bytes)
    return TransitionSequence.model_construct(
        unit="projection", transitions=transitions, footprint_bytes=footprints, quality=[]
    )
