"""The stores of an ensemble while it is being built, and the modules that they make together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flexquant.engine.config_fields import read_object
from flexquant.engine.errors import CheckpointError
from flexquant.engine.layer_spec import LayerSpec, is_quantized, read_spec
from flexquant.engine.manifest import Level, Manifest, Method, Module, Variant
from flexquant.engine.model_config import (
    ANY_PRECISION_METHOD,
    EMBEDDING,
    RESIDUAL_METHOD,
    LinearShape,
    ModelConfig,
    read_model_config,
)
from flexquant.engine.tensor_index import TensorIndex
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.slices import Columns, largest_step, slices_within

if TYPE_CHECKING:
    import torch

    from flexquant.engine.weights import DenseWeights, Exl2Weights
    from flexquant.ensemble_builder.any_precision.store_weights import AnyPrecisionWeights
    from flexquant.ensemble_builder.bounded_weights import BoundedWeights

LEVELS_FOLDER = "levels"


@dataclass(frozen=True, slots=True)
class Store:
    """One level.

    Args:
        level: Its name.
        bits: Average width of the decoder's weight codes, as asked for.
        index: Its tensors.
        config: Its config.json.
        specs: How each linear layer that it has is stored, by key.
        below: The store that it completes, if it is none by itself.
        method: How its weights are quantized.
    """

    level: str
    bits: float
    index: TensorIndex
    config: ModelConfig
    specs: dict[str, LayerSpec]
    below: "Store | None" = None
    method: Method = "exl2"

    def weights(self, kept_bytes: int | None = None, device: "torch.device | None" = None) -> "BoundedWeights":
        """Return the weights for running the whole store or parts of it; see `BoundedWeights`.

        Args:
            kept_bytes: Most bytes of copies that are kept between uses.
            device: Where they are kept; the host's memory if None.
        """
        # Imported late, as below: torch comes with it, and sizes are computed without.
        from flexquant.ensemble_builder.bounded_weights import KEPT_BYTES, BoundedWeights

        return BoundedWeights(lambda: self.opened(device), KEPT_BYTES if kept_bytes is None else kept_bytes)

    def opened(self, device: "torch.device | None" = None) -> "DenseWeights":
        """Return the weights, of which nothing has been read yet."""
        return self._planes_and_tables(device) if self.method == "any-precision" else self.exl2_weights(device)

    def _planes_and_tables(self, device: "torch.device | None") -> "AnyPrecisionWeights":
        from flexquant.engine.torch_scratch import HOST
        from flexquant.ensemble_builder.any_precision.store_weights import AnyPrecisionWeights

        below = None if self.below is None else self.below._planes_and_tables(device)
        return AnyPrecisionWeights(self.index, self.config, {*self.specs}, below, device or HOST)

    def exl2_weights(self, device: "torch.device | None" = None) -> "Exl2Weights":
        """Return the weights of a store in EXL2, of which nothing has been read yet."""
        from flexquant.engine.torch_scratch import HOST
        from flexquant.engine.weights import Exl2Weights

        absent = {shape.key for shape in self.config.linears()} - self.specs.keys()
        below = None if self.below is None else self.below.exl2_weights(device)
        return Exl2Weights(self.index, self.config, absent, below, device or HOST)

    def resident(self, key: str, columns: Columns | None = None) -> int:
        """Return the payload bytes of a linear layer, or of some of its columns, with what lies below them.

        Raises:
            KeyError: Neither this store nor one below has it.
        """
        if self.below is None:
            return self.specs[key].sliced(columns).payload
        own = self.specs.get(key)
        return self.below.resident(key, columns) + (0 if own is None else own.sliced(columns).payload)

    def top(self, key: str) -> LayerSpec:
        """Return what the store has of a linear layer; where it adds nothing to what lies below, that.

        Raises:
            KeyError: Neither this store nor one below has it.
        """
        return self.specs[key] if self.below is None or key in self.specs else self.below.top(key)

    @property
    def layers(self) -> set[str]:
        """Keys of the linear layers that it can run."""
        return {*self.specs} if self.below is None else self.specs.keys() | self.below.layers

    @property
    def module_bytes(self) -> int:
        """Payload bytes of all quantized modules, with what lies below them."""
        return sum(self.resident(key) for key in self.layers)


def open_store(folder: Path, level: str, bits: float, absent: Collection[str] = ()) -> Store:
    """Open a level, or an EXL2 checkpoint, and check all of its linear layers.

    Args:
        folder: Holds it.
        level: See `Store`.
        bits: See `Store`.
        absent: Keys of linear layers that were pruned from it.

    Raises:
        CheckpointError: A file or tensor is missing or damaged.
        UnsupportedModelError: The architecture is not supported.
    """
    config = read_model_config(folder)
    index = TensorIndex.open(folder)
    method, on = _quantization(folder)
    below = None if on is None else open_store(folder.parent / on, on, 0.0)
    specs = {
        shape.key: read_spec(method, index, shape, None if below is None else below.top(shape.key))
        for shape in config.linears()
        if shape.key not in absent and (below is None or is_quantized(method, index, shape.key))
    }
    return Store(level, bits, index, config, specs, below, method)


def model_weights(folder: Path, device: "torch.device | None" = None) -> "DenseWeights":
    """Return the weights of a folder that is a model by itself: unquantized, in EXL2, or an ensemble's smallest level.

    Args:
        folder: The model.
        device: Where tensors are kept; the host's memory if None.

    Raises:
        CheckpointError: A file or tensor is missing or damaged.
    """
    method, _ = _quantization(folder)
    if method == "any-precision":
        return open_store(folder, "", 0.0).opened(device)
    from flexquant.engine.torch_scratch import HOST
    from flexquant.engine.weights import Exl2Weights

    return Exl2Weights(TensorIndex.open(folder), read_model_config(folder), device=device or HOST)


def _quantization(folder: Path) -> tuple[Method, str | None]:
    """How a store is quantized, and the level that it completes; None if it stands alone."""
    path = folder / "config.json"
    found = read_object(path).get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    if not isinstance(found, dict) or method not in (RESIDUAL_METHOD, ANY_PRECISION_METHOD):
        return "exl2", None
    if method == ANY_PRECISION_METHOD:
        below = found.get("below")
        if below is not None and type(below) is not int:
            raise CheckpointError(f"{path}: quantization_config.below: {below!r} is no number of bits")
        return "any-precision", None if below is None else level_name(below)
    on = found.get("on")
    if not isinstance(on, str) or Path(on).name != on:
        raise CheckpointError(f"{path}: quantization_config.on: {on!r} is no name of a level")
    return "exl2", on


def stores_of(folder: Path, manifest: Manifest) -> list[Store]:
    """Open all stores of an ensemble, from best to smallest.

    Raises:
        CheckpointError: See `open_store`.
    """
    return [
        open_store(folder / level.store, level.name, level.bits, absent_from(level.name, manifest.modules))
        for level in manifest.levels
    ]


def absent_from(level: str, modules: Sequence[Module]) -> set[str]:
    """Return the keys of linear layers that no module has at a level: they are not needed there, or were pruned."""
    needed = {module.linear for module in modules for variant in module.variants if variant.level == level}
    return {module.linear for module in modules} - needed


def level_of(store: Store) -> Level:
    """Return the manifest's record of a store."""
    shapes = [shape for shape in store.config.linears() if shape.key in store.layers]
    weights = sum(shape.in_features * shape.out_features for shape in shapes)
    return Level(
        name=store.level,
        bits=store.bits,
        bits_per_weight=round(8 * store.module_bytes / weights, 4) if weights else 0.0,
        store=f"{LEVELS_FOLDER}/{store.level}",
        on=None if store.below is None else store.below.level,
    )


def modules_of(stores: Sequence[Store], max_step: int | None = None) -> list[Module]:
    """Return the modules of an ensemble in forward order: one per linear layer, or per slice of one.

    A variant that is no smaller than the one before it is left out: going there would give nothing back.

    Args:
        stores: From best to smallest.
        max_step: Most bytes that a module gives back in one step, see `slices_within`; no limit if None.
    """
    modules = []
    for shape in stores[0].config.linears():
        having = [store for store in stores if shape.key in store.specs]

        def step_of(columns: Columns | None, shape: LinearShape = shape, having: list[Store] = having) -> int:
            return largest_step([store.resident(shape.key, columns) for store in having])

        cut = slices_within(shape.out_features, step_of, max_step)
        modules += [_module(having, shape, columns) for columns in cut]
    return modules


def _module(stores: Sequence[Store], shape: LinearShape, columns: Columns | None) -> Module:
    variants: list[Variant] = []
    for store in stores:
        size = store.resident(shape.key, columns)
        if not variants or size < variants[-1].bytes:
            names = [entry.name for entry in store.specs[shape.key].entries.values()]
            variants.append(Variant(level=store.level, tensors=names, bytes=size))
    first, last = (0, shape.out_features) if columns is None else columns
    return Module(
        name=shape.key if columns is None else f"{shape.key}[{first}:{last}]",
        linear=shape.key,
        columns=columns,
        in_features=shape.in_features,
        out_features=last - first,
        variants=variants,
    )


def norm_bytes(store: Store) -> int:
    """Return the bytes of the norms, which no position changes."""
    return sum(store.index[name].nbytes for name in store.config.norms())


def embedding_bytes(store: Store) -> int:
    """Return the bytes of the embedding table."""
    return store.index[EMBEDDING].nbytes


def parameter_count(config: ModelConfig) -> int:
    """Return the number of weights: embedding included, tied weights once."""
    norms = sum(config.norms().values())
    linears = sum(
        shape.in_features * shape.out_features + (shape.out_features if shape.bias else 0)
        for shape in config.linears()
        if not (shape.layer is None and config.tied_head)
    )
    return config.vocab_size * config.hidden_size + norms + linears
