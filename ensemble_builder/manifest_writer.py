"""Puts the manifest together and writes it: the last file of a build."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
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
    Quantization,
    Search,
    Transition,
    TransitionSequence,
)
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.evaluation import Windows, rounded
from flexquant.ensemble_builder.search import METHOD
from flexquant.ensemble_builder.sequence import Assignment, footprint, states_along
from flexquant.ensemble_builder.sequence_search import Searched
from flexquant.ensemble_builder.stores import (
    Store,
    embedding_bytes,
    level_of,
    norm_bytes,
    parameter_count,
)
from flexquant.ensemble_builder.units import Kind, manifest_unit


def sequence_of(modules: Sequence[Module], kind: Kind, searched: Searched, fixed_bytes: int) -> TransitionSequence:
    """Return the manifest's form of a sequence.

    Args:
        modules: The modules.
        kind: What a unit of the search is.
        searched: The search.
        fixed_bytes: Resident bytes that no position changes.
    """
    units = searched.units
    states = states_along(units.units, searched.found.order)
    return TransitionSequence(
        unit=manifest_unit(modules, kind),
        transitions=[
            _transition(modules, units.modules_at(high), units.modules_at(low)) for high, low in pairwise(states)
        ],
        footprint_bytes=[fixed_bytes + footprint(units.units, state) for state in states],
        quality=list(searched.qualities),
    )


def _transition(modules: Sequence[Module], high: Assignment, low: Assignment) -> Transition:
    return Transition(
        moves=[
            Move(module=module.name, from_variant=before, to_variant=after)
            for module, before, after in zip(modules, high, low, strict=True)
            if before != after
        ]
    )


def manifest_of(
    *,
    name: str,
    stores: Sequence[Store],
    modules: Sequence[Module],
    sequences: Mapping[Kind, Searched],
    evaluations: int,
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
        sequences: The searches; the first is the default sequence.
        evaluations: Assignments that all of them together measured.
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
        method=stores[0].method,
        parameters=parameter_count(config),
        levels=[level_of(store) for store in stores],
        modules=_with_sensitivities(modules, sequences.get("projection")),
        sequences={kind: sequence_of(modules, kind, searched, fixed_bytes) for kind, searched in sequences.items()},
        default_sequence=next(iter(sequences)),
        fixed_bytes=fixed_bytes,
        embedding_bytes=embedding_bytes(stores[0]),
        evaluation=Evaluation(
            text=windows.text,
            window_tokens=windows.tokens.shape[1],
            windows=windows.tokens.shape[0],
            reference=reference,
            reference_perplexity=reference_perplexity,
        ),
        search=Search(method=METHOD, seed=seed, evaluations=evaluations),
        quantization=quantization,
        pruning=pruning,
        files=files,
    )


def _with_sensitivities(modules: Sequence[Module], searched: Searched | None) -> list[Module]:
    """Return the modules with what their transitions cost by themselves, if each was a unit of a search."""
    if searched is None:
        return list(modules)
    return [
        module.model_copy(update={"sensitivity": [rounded(cost) for cost in costs]})
        for module, costs in zip(modules, searched.found.sensitivity, strict=True)
    ]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `ensemble.json`; the same manifest gives the same bytes.

    Raises:
        FlexQuantError: It cannot be written.
    """
    write_atomically(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode() + b"\n")
