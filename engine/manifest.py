"""The manifest of an ensemble, `ensemble.json`: schema and consistency rules.

Pure data. Opening the stores it names is `ensemble.py`'s work.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flexquant.engine.errors import EnsembleError

SCHEMA_VERSION: Final = 1
MANIFEST_NAME = "ensemble.json"

Method = Literal["exl2", "any-precision"]
"""How the weights of an ensemble are quantized, and so what its stores hold."""

Bytes = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of all manifest records: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Level(Record):
    """One store: the whole model quantized to `bits` per weight on average."""

    name: str
    """Also the folder name below `levels/`, such as "8.0"."""
    bits: float
    """Average width of the decoder's weight codes, as asked for."""
    bits_per_weight: float
    """Measured: payload bits of all quantized modules over their weights, scales and permutations included."""
    store: str
    """Folder relative to the ensemble, such as "levels/8.0"."""
    on: str | None = None
    """The level that this one's store completes, with residuals of its weights or with further bits of their codes.
    None for a store of its own."""


class Variant(Record):
    """One stored form of a module."""

    level: str
    tensors: list[str]
    """Names of the layer's safetensors tensors in the level's store."""
    bytes: Bytes
    """Payload: the sum of the tensors' sizes, or of those of the slice, and of what lies below them."""


class Module(Record):
    """The unit that is swapped. `variants` are ordered from best to smallest."""

    name: str
    linear: str
    """Key of the linear layer, such as "model.layers.0.self_attn.q_proj" or "lm_head"."""
    columns: tuple[int, int] | None = None
    """Half-open range of output columns for a slice; None for the whole layer.

    The slices of a layer are listed in the order of their columns, which they cover without gaps. They are cut at
    multiples of 32. What a slice's variant takes by itself is its spec's `sliced(columns).payload`.
    """
    in_features: int
    out_features: int
    """Of the module: of a slice, as many as it has columns."""
    variants: list[Variant] = Field(min_length=1)
    sensitivity: list[float] | None = None
    """KL added by going from variant i to i + 1 while every other module stays at its best."""


class Move(Record):
    """One module changing its variant within a transition."""

    module: str
    from_variant: int
    to_variant: int


class Transition(Record):
    """Modules that are swapped together: one step of a sequence."""

    moves: list[Move] = Field(min_length=1)


class Quality(Record):
    """Measured by the evaluation protocol on the search text."""

    perplexity: float
    kl: float
    """Mean KL divergence to the reference, in nats per token."""


class TransitionSequence(Record):
    """Ordered transitions; position k means that the first k were applied."""

    unit: Literal["projection", "slice", "block", "layer"]
    transitions: list[Transition]
    footprint_bytes: list[Bytes]
    """Resident weight bytes at positions 0..N (the file-mapped embedding is not counted)."""
    quality: list[Quality]
    """At positions 0..N."""


class Text(Record):
    """Which text was used, so that a figure can be repeated."""

    name: str
    sha256: Sha256
    tokens: int


class Evaluation(Record):
    """The evaluation protocol that `quality` was measured by.

    Non-overlapping windows, BOS first, remainder dropped, logits in float32.
    """

    text: Text
    window_tokens: int
    windows: int
    reference: Literal["unquantized", "position 0"]
    """What KL is measured against; "position 0" where the unquantized checkpoint was not at hand."""
    reference_perplexity: float


class Search(Record):
    """How the sequence was found."""

    method: str
    seed: int
    evaluations: int


class Quantization(Record):
    """How the levels were made; absent for levels that were imported."""

    quantizer: str
    group_size: int | None
    """Weights that share a scale; None where a method has no scales."""
    calibration: Text


class Pruning(Record):
    """What left the disk when an ensemble was pruned. A level that lost modules no longer loads by itself."""

    keep: Literal["smallest", "best"]
    """The end of the footprint's range that was to stay."""
    dropped: dict[str, list[str]]
    """By level name: the keys of the linear layers that are not in its store any more."""
    dropped_bytes: Bytes
    """Payload of these."""
    dropped_variants: int
    """How many these are."""
    variants: int
    """How many variants of linear layers there were before."""
    footprint_range_bytes: tuple[Bytes, Bytes]
    """Smallest and largest footprint before."""


class FileRecord(Record):
    """Size and hash of one file of the ensemble."""

    bytes: Bytes
    sha256: Sha256


class Manifest(Record):
    """`ensemble.json` as a whole."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    architecture: str
    """`model_type` of config.json."""
    method: Method
    parameters: int
    """Weights of the model, embedding included, tied weights once."""
    levels: list[Level] = Field(min_length=1)
    modules: list[Module] = Field(min_length=1)
    sequences: dict[str, TransitionSequence] = Field(min_length=1)
    default_sequence: str
    fixed_bytes: Bytes
    """Resident weights that never move: norms and biases outside the modules."""
    embedding_bytes: Bytes
    """The file-mapped embedding table, reported apart from the footprint."""
    evaluation: Evaluation
    search: Search
    quantization: Quantization | None
    pruning: Pruning | None = None
    """Absent where nothing was pruned."""
    files: dict[str, FileRecord]
    """Every file of the ensemble but the manifest, by path relative to its folder."""

    @property
    def nested(self) -> bool:
        """Whether a level's store is of use only together with another one's."""
        return any(level.on is not None for level in self.levels)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_sequence not in self.sequences:
            raise ValueError(f"default_sequence {self.default_sequence!r} is not among sequences")
        levels = {level.name for level in self.levels}
        modules = {module.name: module for module in self.modules}
        if len(modules) != len(self.modules):
            raise ValueError("two modules have the same name")
        for module in self.modules:
            for variant in module.variants:
                if variant.level not in levels:
                    raise ValueError(f"module {module.name}: unknown level {variant.level!r}")
        _check_nesting(self.levels, self.modules)
        for name, sequence in self.sequences.items():
            _check_sequence(name, sequence, modules, self.fixed_bytes)
        return self


def _check_nesting(levels: Sequence[Level], modules: Sequence[Module]) -> None:
    """Raise ValueError unless a level lies on the next one, or on none.

    Levels that lie on others come before those that stand alone, so that a step down never needs what was not there. A
    module may lack levels between, at which it would be no better.
    """
    names = [level.name for level in levels]
    for level, next_name in zip(levels, [*names[1:], None], strict=True):
        if level.on is not None and level.on != next_name:
            raise ValueError(f"level {level.name}: on is {level.on!r}, which is not the next level")
    for level, lower in pairwise(levels):
        if level.on is None and lower.on is not None:
            raise ValueError(f"level {lower.name}: on is {lower.on!r}, but the level above it stands alone")
    below: dict[str, set[str]] = {}  # by level: those that its weights can be added to
    for level in reversed(levels):
        below[level.name] = set() if level.on is None else {level.on} | below[level.on]
    for module in modules:
        found = [variant.level for variant in module.variants]
        for name, next_name in zip(found, [*found[1:], None], strict=True):
            if below[name] and next_name not in below[name]:
                raise ValueError(f"module {module.name}: level {name} has nothing below it that it could lie on")


def _check_sequence(name: str, sequence: TransitionSequence, modules: dict[str, Module], fixed: int) -> None:
    """Raise ValueError unless every move starts where the previous one left its module."""
    positions = len(sequence.transitions) + 1
    if len(sequence.footprint_bytes) != positions or len(sequence.quality) != positions:
        raise ValueError(f"sequence {name}: footprint_bytes and quality need {positions} entries")
    at = dict.fromkeys(modules, 0)
    footprint = fixed + sum(module.variants[0].bytes for module in modules.values())
    for position, transition in enumerate([None, *sequence.transitions]):
        for move in transition.moves if transition else []:
            module = modules.get(move.module)
            if module is None:
                raise ValueError(f"sequence {name}, transition {position}: unknown module {move.module!r}")
            if not (at[move.module] == move.from_variant < move.to_variant < len(module.variants)):
                raise ValueError(
                    f"sequence {name}, transition {position}: {move.module} cannot go from variant "
                    f"{move.from_variant} to {move.to_variant}; it is at {at[move.module]} of {len(module.variants)}"
                )
            at[move.module] = move.to_variant
            footprint += module.variants[move.to_variant].bytes - module.variants[move.from_variant].bytes
        if sequence.footprint_bytes[position] != footprint:
            raise ValueError(
                f"sequence {name}: footprint_bytes[{position}] is {sequence.footprint_bytes[position]}, "
                f"the variants add up to {footprint}"
            )


def read_manifest(folder: Path) -> Manifest:
    """Read and check `ensemble.json` in `folder`.

    Raises:
        EnsembleError: The file is missing, is no JSON, or breaks the schema; the message names the field.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise EnsembleError(f"{path}: cannot be read: {error.strerror}", hint="Is this an ensemble folder?") from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise EnsembleError(f"{path}: not valid JSON: {error}", hint="Build the ensemble again.") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise EnsembleError(
            f"{path}: schema_version is {version!r}, this version of FlexQuant reads {SCHEMA_VERSION}",
            hint="Build the ensemble again with this version.",
        )
    try:
        return Manifest.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise EnsembleError(f"{path}: {field}: {first['msg']}", hint="Build the ensemble again.") from error


def modules_by_linear(manifest: Manifest) -> dict[str, list[Module]]:
    """By key of every linear layer: its module, or its slices in the order of their columns."""
    found: dict[str, list[Module]] = {}
    for module in manifest.modules:
        found.setdefault(module.linear, []).append(module)
    return found


def assignment(manifest: Manifest, sequence: str, position: int) -> dict[str, int]:
    """Variant index of every module at `position` of `sequence`.

    Raises:
        ValueError: `position` is outside 0..N.
    """
    transitions = manifest.sequences[sequence].transitions
    if not 0 <= position <= len(transitions):
        raise ValueError(f"position {position} is outside 0..{len(transitions)}")
    variants = {module.name: 0 for module in manifest.modules}
    for transition in transitions[:position]:
        for move in transition.moves:
            variants[move.module] = move.to_variant
    return variants


def modules_by_level(manifest: Manifest, sequence: TransitionSequence, position: int) -> dict[str, int]:
    """How many modules are at each level, at `position` of a sequence; levels that have none included."""
    moves = [move for transition in sequence.transitions[:position] for move in transition.moves]
    variants = {move.module: move.to_variant for move in moves}
    counts = {level.name: 0 for level in manifest.levels}
    for module in manifest.modules:
        counts[module.variants[variants.get(module.name, 0)].level] += 1
    return counts
