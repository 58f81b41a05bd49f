"""The orders that a report compares: the ensemble's own sequence, and others of the same stores with the same ends."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from flexquant.engine.errors import EnsembleError, UsageError
from flexquant.engine.manifest import Manifest, assignment
from flexquant.ensemble_builder.sequence import Assignment, Order, Unit, footprint, states_along

OWN: Final = "sequence"
GREEDY: Final = "greedy"
EXHAUSTIVE: Final = "exhaustive"
RANDOM: Final = "random"
FRONT: Final = "front-to-back"
BACK: Final = "back-to-front"
WHOLE: Final = "whole-model"
NAMES: Final = {
    OWN: "the ensemble's sequence",
    GREEDY: "greedy by sensitivity",
    EXHAUSTIVE: "exhaustive greedy",
    RANDOM: "random",
    FRONT: "front to back",
    BACK: "back to front",
    WHOLE: "the whole model at one width",
}
"""Methods by the name that the command line and report.json know, and their names for people."""
BASELINES: Final = (GREEDY, RANDOM, FRONT, BACK)


@dataclass(frozen=True, slots=True)
class Route:
    """A way from the best to the smallest assignment.

    Args:
        method: A key of `NAMES`.
        draw: Which of several random orders this is, from 0; None for every other method.
        states: Assignments at positions 0..N.
        footprints: Resident bytes at positions 0..N.
    """

    method: str
    draw: int | None
    states: tuple[Assignment, ...]
    footprints: tuple[int, ...]


def parse_orders(text: str) -> tuple[str, ...]:
    """Parse a list such as "greedy,random". The result is in the order of `BASELINES`.

    Raises:
        UsageError: One of them does not exist.
    """
    asked = [part.strip() for part in text.split(",")]
    for name in asked:
        if name not in BASELINES:
            raise UsageError(
                f"--orders {text}: {name!r} is no order",
                hint=f"Orders are {', '.join(BASELINES)}; the ensemble's own is always measured.",
            )
    return tuple(name for name in BASELINES if name in asked)


def own_route(manifest: Manifest) -> Route:
    """Return the ensemble's default sequence."""
    name = manifest.default_sequence
    sequence = manifest.sequences[name]
    states = [assignment(manifest, name, position) for position in range(len(sequence.footprint_bytes))]
    as_tuples = tuple(tuple(state[module.name] for module in manifest.modules) for state in states)
    return Route(OWN, None, as_tuples, tuple(sequence.footprint_bytes))


def units_between(manifest: Manifest, end: Assignment) -> list[Unit]:
    """Return one unit per module, with the variants from the best to the one that the sequence ends with.

    Raises:
        EnsembleError: A module's variants do not get smaller.
    """
    units = []
    for module, last in zip(manifest.modules, end, strict=True):
        sizes = tuple(variant.bytes for variant in module.variants[: last + 1])
        if any(low >= high for high, low in pairwise(sizes)):
            raise EnsembleError(
                f"{manifest.name}: modules.{module.name}: variants have {', '.join(map(str, sizes))} bytes; "
                "each must be smaller than the one before it",
                hint="Build the ensemble again.",
            )
        units.append(Unit(module.name, sizes))
    return units


def route_along(method: str, units: Sequence[Unit], order: Order, fixed_bytes: int, draw: int | None = None) -> Route:
    """Return the route that lowers one unit after the other.

    Args:
        method: A key of `NAMES`.
        units: What is lowered.
        order: In which order.
        fixed_bytes: Resident bytes that no position changes.
        draw: See `Route`.
    """
    states = tuple(states_along(units, order))
    return Route(method, draw, states, tuple(fixed_bytes + footprint(units, state) for state in states))


def whole_model_route(manifest: Manifest, units: Sequence[Unit]) -> Route | None:
    """Return the whole model at one width after the other: how Any-Precision LLM is used (the paper's Base-AP).

    A module that a level has nothing of has its next smaller variant.

    Args:
        manifest: The ensemble's.
        units: See `units_between`.

    Returns:
        None for another method, whose levels are whole models in stores of their own; and for two levels, which are the
        two ends of every order.
    """
    if manifest.method != "any-precision":
        return None
    rank = {level.name: at for at, level in enumerate(manifest.levels)}
    states = []
    for at in range(len(manifest.levels)):
        states.append(
            tuple(
                sum(rank[variant.level] < at for variant in module.variants[: unit.steps])
                for module, unit in zip(manifest.modules, units, strict=True)
            )
        )
    distinct = tuple(dict.fromkeys(states))
    if len(distinct) < 3:
        return None
    return Route(WHOLE, None, distinct, tuple(manifest.fixed_bytes + footprint(units, state) for state in distinct))


def front_to_back(units: Sequence[Unit]) -> Order:
    """Lower all units to their second variant in the order of the forward pass, then all to the third, and so on."""
    most = max((unit.steps for unit in units), default=0)
    return tuple(index for step in range(most) for index, unit in enumerate(units) if step < unit.steps)


def back_to_front(units: Sequence[Unit]) -> Order:
    """Like `front_to_back`, but from the head to the first layer."""
    most = max((unit.steps for unit in units), default=0)
    backwards = list(enumerate(units))[::-1]
    return tuple(index for step in range(most) for index, unit in backwards if step < unit.steps)


def random_orders(units: Sequence[Unit], draws: int, seed: int) -> list[Order]:
    """Return `draws` shuffled orders; the same seed gives the same ones."""
    rng = random.Random(seed)
    steps = [index for index, unit in enumerate(units) for _ in range(unit.steps)]
    return [tuple(rng.sample(steps, len(steps))) for _ in range(draws)]
