"""Puts the manifest together and writes it: the last file of a build."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from flexquant.engine.manifest import (
    MANIFEST_NAME,
    Evaluation,
    FileRecord,
    Manifest,
    Module,
    Move,
    Pruning,
    Quality,
    Quantization,
    Search,
    Transition,
    TransitionSequence,
)
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.evaluation import Windows, rounded
from flexquant.ensemble_builder.search import METHOD, Found
from flexquant.ensemble_builder.sequence import Assignment, Unit, footprint, states_along
from flexquant.ensemble_builder.stores import (
    Store,
    embedding_bytes,
    level_of,
    norm_bytes,
    parameter_count,
)

SEQUENCE_NAME = "projection"


def sequence_of(
    modules: Sequence[Module],
    units: Sequence[Unit],
    found: Found,
    qualities: Mapping[Assignment, Quality],
    fixed_bytes: int,
) -> TransitionSequence:
    """Return the manifest's form of a sequence that lowers one module at a time.

    Args:
        modules: The modules.
        units: One per module, in the same order.
        found: What the search found.
        qualities: At least of every position.
        fixed_bytes: Resident bytes that no position changes.
    """
    states = states_along(units, found.order)
    return TransitionSequence(
        unit="projection",
        transitions=[
            Transition(moves=[Move(module=modules[unit].name, from_variant=state[unit], to_variant=state[unit] + 1)])
            for state, unit in zip(states[:-1], found.order, strict=True)
        ],
        footprint_bytes=[fixed_bytes + footprint(units, state) for state in states],
        quality=[qualities[state] for state in states],
    )


def manifest_of(
    *,
    name: str,
    stores: Sequence[Store],
    modules: Sequence[Module],
    units: Sequence[Unit],
    found: Found,
    qualities: Mapping[Assignment, Quality],
    windows: Windows,
    reference: Literal["unquantized", "position 0"],
    reference_perplexity: float,
    seed: int,
    quantization: Quantization | None,
    pruning: Pruning | None = None,
    files: dict[str, FileRecord],
) -> Manifest:
    """Return the manifest of a finished build.

    Args:
        name: Name of the model.
        stores: The levels, from best to smallest.
        modules: See `modules_of`.
        units: See `units_of`.
        found: What the search found.
        qualities: Of every position at least.
        windows: The search text.
        reference: What KL was measured against.
        reference_perplexity: Its perplexity on the search text.
        seed: Seed of texts that were sampled.
        quantization: How the levels were made; None if they were imported.
        pruning: What the stores lost; None if nothing.
        files: Every file but the manifest.
    """
    config = stores[0].config
    fixed_bytes = norm_bytes(stores[0])
    return Manifest(
        name=name,
        architecture=config.architecture,
        method="exl2",
        parameters=parameter_count(config),
        levels=[level_of(store) for store in stores],
        modules=[
            module.model_copy(update={"sensitivity": [rounded(cost) for cost in costs]})
            for module, costs in zip(modules, found.sensitivity, strict=True)
        ],
        sequences={SEQUENCE_NAME: sequence_of(modules, units, found, qualities, fixed_bytes)},
        default_sequence=SEQUENCE_NAME,
        fixed_bytes=fixed_bytes,
        embedding_bytes=embedding_bytes(stores[0]),
        evaluation=Evaluation(
            text=windows.text,
            window_tokens=windows.tokens.shape[1],
            windows=windows.tokens.shape[0],
            reference=reference,
            reference_perplexity=reference_perplexity,
        ),
        search=Search(method=METHOD, seed=seed, evaluations=found.evaluations),
        quantization=quantization,
        pruning=pruning,
        files=files,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `ensemble.json`; the same manifest gives the same bytes.

    Raises:
        FlexQuantError: It cannot be written.
    """
    write_atomically(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode() + b"\n")
