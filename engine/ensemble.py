"""An ensemble folder, opened and checked: after this, loading it can only fail for lack of memory or by the disk."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, Self

import numpy as np

from flexquant.engine.errors import CheckpointError, EnsembleError, UnsupportedModelError
from flexquant.engine.exl2.spec import check_columns
from flexquant.engine.layer_spec import LayerSpec, is_quantized, read_spec
from flexquant.engine.manifest import MANIFEST_NAME, Manifest, Module, TransitionSequence, read_manifest
from flexquant.engine.model_config import EMBEDDING, LinearShape, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex

TOKENIZER: Final = "tokenizer.json"
_COMMON_DTYPES: Final = ("F16", "BF16", "F32")
_BUILD_AGAIN: Final = "Build the ensemble again."


@dataclass(frozen=True, slots=True)
class Ensemble:
    """What an ensemble folder holds. Opening it reads headers, norms and group tables, never weights."""

    folder: Path
    manifest: Manifest
    config: ModelConfig
    common: TensorIndex
    """The first level's store, for what all levels share: embedding and norms."""
    specs: Mapping[str, tuple[LayerSpec, ...]]
    """By module name: its variants as their stores hold them, best first."""

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Self:
        """Read the manifest and check every store it names.

        Args:
            folder: Holds `ensemble.json`.
            verify: Also compare the sha256 of every file, which reads all of them.

        Raises:
            EnsembleError: Something is missing, damaged or contradicts the manifest; names the file and field.
            UnsupportedModelError: The model is of an architecture that the engine does not run.
        """
        manifest = read_manifest(folder)
        for name, record in manifest.files.items():
            _check_file(folder, name, record.bytes, record.sha256 if verify else None)
        try:
            return cls._open_stores(folder, manifest)
        except UnsupportedModelError:
            raise
        except CheckpointError as error:
            raise EnsembleError(error.message, hint=error.hint or _BUILD_AGAIN) from error
        except OSError as error:
            raise EnsembleError(f"{error.filename}: cannot be read: {error.strerror}", hint=_BUILD_AGAIN) from error

    @classmethod
    def _open_stores(cls, folder: Path, manifest: Manifest) -> Self:
        path = folder / MANIFEST_NAME
        stores = {level.name: _inside(folder, level.store, f"levels.{level.name}.store") for level in manifest.levels}
        indexes = {name: TensorIndex.open(store) for name, store in stores.items()}
        for index in indexes.values():
            for file in {index[name].file for name in index.names()}:
                if file.relative_to(folder).as_posix() not in manifest.files:
                    raise EnsembleError(f"{path}: files: {file} is not listed", hint=_BUILD_AGAIN)
        first, *others = stores
        config = read_model_config(stores[first])
        if manifest.architecture != config.architecture:
            raise EnsembleError(
                f"{path}: architecture is {manifest.architecture!r}, {stores[first] / 'config.json'} has "
                f"{config.architecture!r}",
                hint=_BUILD_AGAIN,
            )
        for store in stores.values():
            if not (store / TOKENIZER).is_file():
                raise EnsembleError(f"{store / TOKENIZER}: the tokenizer is missing", hint=_BUILD_AGAIN)
        for index in indexes.values():
            _check_shape(index, EMBEDDING, (config.vocab_size, config.hidden_size))
            for norm, length in config.norms().items():
                _check_shape(index, norm, (length,))
        for other in others:
            _check_same_model(indexes[first], config, indexes[other])
        embedding = indexes[first][EMBEDDING]
        if embedding.nbytes != manifest.embedding_bytes:
            raise EnsembleError(
                f"{path}: embedding_bytes is {manifest.embedding_bytes}, {embedding.file} has {embedding.nbytes}",
                hint=_BUILD_AGAIN,
            )
        shapes = {shape.key: shape for shape in config.linears()}
        _check_cover(path, manifest, shapes)

        method = manifest.method
        on = {level.name: level.on for level in manifest.levels}

        @cache
        def layer(level: str, key: str) -> LayerSpec:
            below = on[level]
            if below is None:
                return read_spec(method, indexes[level], shapes[key], None)
            if not is_quantized(method, indexes[level], key):
                return layer(below, key)  # a level at which this layer is no better
            return read_spec(method, indexes[level], shapes[key], layer(below, key))

        specs = {
            module.name: _specs_of(path, module, [layer(variant.level, module.linear) for variant in module.variants])
            for module in manifest.modules
        }
        return cls(folder, manifest, config, indexes[first], specs)

    @property
    def tokenizer_folder(self) -> Path:
        """Where `tokenizer.json` and its settings lie."""
        return self.common.folder

    @property
    def model_folder(self) -> Path:
        """The best level that is a model by itself."""
        level = next(level for level in self.manifest.levels if level.on is None)
        return self.folder / level.store

    def sequence(self, name: str | None = None) -> TransitionSequence:
        """The sequence of that name; the default one without.

        Raises:
            EnsembleError: There is none of that name.
        """
        found = self.manifest.sequences.get(self.manifest.default_sequence if name is None else name)
        if found is None:
            names = ", ".join(sorted(self.manifest.sequences))
            raise EnsembleError(f"{self.folder / MANIFEST_NAME}: sequences: there is no {name!r}, only {names}")
        return found


def _check_file(folder: Path, name: str, size: int, sha256: str | None) -> None:
    """The file is there, as long as the manifest says, and with `sha256` has that hash."""
    path = _inside(folder, name, "files")
    try:
        found = path.stat().st_size
        if found != size:
            raise EnsembleError(
                f"{path}: has {found} bytes, {MANIFEST_NAME} says files.{name}.bytes = {size}",
                hint="Copy or build the ensemble again.",
            )
        if sha256 is not None and file_sha256(path) != sha256:
            raise EnsembleError(
                f"{path}: its content differs from files.{name}.sha256 in {MANIFEST_NAME}",
                hint="Copy or build the ensemble again.",
            )
    except OSError as error:
        raise EnsembleError(
            f"{path}: cannot be read: {error.strerror}; {MANIFEST_NAME} names it in files",
            hint="Copy or build the ensemble again.",
        ) from error


def file_sha256(path: Path) -> str:
    """Hash of a file, as the manifest records it.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _inside(folder: Path, name: str, field: str) -> Path:
    """`name` below `folder`; a manifest from elsewhere must not lead out of it."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not name.isprintable():
        raise EnsembleError(f"{folder / MANIFEST_NAME}: {field}: {name!r} is no path inside the ensemble's folder")
    return folder / relative


def _check_shape(index: TensorIndex, name: str, expected: tuple[int, ...]) -> None:
    entry = index[name]
    if entry.shape != expected or entry.dtype not in _COMMON_DTYPES:
        raise EnsembleError(
            f"{entry.file}: {name}: is {entry.dtype} {list(entry.shape)}, expected {list(expected)} by config.json, as "
            f"one of {', '.join(_COMMON_DTYPES)}"
        )


def _check_same_model(first: TensorIndex, config: ModelConfig, other: TensorIndex) -> None:
    """Levels of one model agree in settings, tokenizer and norms, which quantization leaves alone."""
    hint = "All levels must be quantized from the same checkpoint."
    if read_model_config(other.folder) != config:
        raise EnsembleError(
            f"levels of different models: {other.folder / 'config.json'} contradicts {first.folder / 'config.json'}",
            hint=hint,
        )
    if (first.folder / TOKENIZER).read_bytes() != (other.folder / TOKENIZER).read_bytes():
        raise EnsembleError(
            f"levels of different models: {other.folder / TOKENIZER} differs from {first.folder / TOKENIZER}",
            hint=hint,
        )
    for norm in config.norms():
        if not np.array_equal(first.content(norm), other.content(norm)):
            raise EnsembleError(
                f"levels of different models: {norm} in {other.folder} differs from that in {first.folder}", hint=hint
            )


def _check_cover(path: Path, manifest: Manifest, shapes: Mapping[str, LinearShape]) -> None:
    """Every linear layer is one module, or slices that have each of its columns once, in ascending order."""
    covered = dict.fromkeys(shapes, 0)
    for module in manifest.modules:
        field = f"{path}: modules.{module.name}"
        shape = shapes.get(module.linear)
        if shape is None or (module.columns is None and covered[module.linear]):
            raise EnsembleError(f"{field}.linear: {module.linear!r} is no linear layer of the model, or is named twice")
        first, last = columns = module.columns or (0, shape.out_features)
        try:
            check_columns(columns, shape.out_features)
        except ValueError as error:
            raise EnsembleError(f"{field}.columns: {error}", hint=_BUILD_AGAIN) from error
        if first != covered[module.linear]:
            raise EnsembleError(
                f"{field}.columns: begin at {first}, the modules of {module.linear} before it end at "
                f"{covered[module.linear]}",
                hint=_BUILD_AGAIN,
            )
        covered[module.linear] = last
        if (module.in_features, module.out_features) != (shape.in_features, last - first):
            raise EnsembleError(
                f"{field}: in_features, out_features are {module.in_features}, {module.out_features}; config.json "
                f"makes them {shape.in_features}, {last - first}"
            )
    for key, end in covered.items():
        if end == 0:
            raise EnsembleError(f"{path}: modules: there is none for {key}", hint=_BUILD_AGAIN)
        if end != shapes[key].out_features:
            raise EnsembleError(
                f"{path}: modules: the slices of {key} end at column {end} of {shapes[key].out_features}",
                hint=_BUILD_AGAIN,
            )


def _specs_of(path: Path, module: Module, layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The specs of a module's variants, which must have the tensors and bytes that the manifest promises."""
    found: list[LayerSpec] = []
    below = 0  # bytes of the next variant, on which this one may lie
    for number, (variant, layer) in reversed([*enumerate(zip(module.variants, layers, strict=True))]):
        field = f"{path}: modules.{module.name}.variants.{number}"
        names = {entry.name for entry in layer.entries.values()}
        if names != set(variant.tensors):
            differing = ", ".join(sorted(names ^ set(variant.tensors)))
            raise EnsembleError(f"{field}.tensors: differ from the store's in {differing}", hint=_BUILD_AGAIN)
        spec = layer.sliced(module.columns)
        below = spec.payload + (below if spec.residual else 0)
        if below != variant.bytes:
            raise EnsembleError(f"{field}.bytes is {variant.bytes}, the store has {below}", hint=_BUILD_AGAIN)
        found.append(spec)
    return tuple(reversed(found))
