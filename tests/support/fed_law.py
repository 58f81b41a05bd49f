"""The control law fed with samples by hand: what it makes of them, nothing being carried out."""

from collections.abc import Iterable
from dataclasses import replace

from flexquant.server.controller.law import Law
from flexquant.server.controller.parameters import GIB, Parameters
from flexquant.server.controller.sample import MemoryReading, Move, Order, Sample
from flexquant.server.controller.state import State
from flexquant.server.simulation.plant import even_footprints

TOTAL = 16 * GIB
FOOTPRINTS = even_footprints()
RESERVES = Parameters().reserves(TOTAL, shared=True, largest_step=FOOTPRINTS[0] - FOOTPRINTS[1])
PLENTY = 12 * GIB


def sample_of(available: int, position: int = 0, **changes: object) -> Sample:
    """A machine with so many bytes available and a model that rests; `changes` are other fields."""
    base = Sample(
        memory=(MemoryReading("host", available, TOTAL),),
        failed=(),
        position=position,
        target=position,
        moving=False,
        elastic_bytes=FOOTPRINTS[position],
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # field names are checked at run time


def law_with(**changes: object) -> Law:
    """A law with other parameters than the defaults."""
    return Law(replace(Parameters(), **changes), FOOTPRINTS)  # type: ignore[arg-type]  # as above


def decide(law: Law, state: State, sample: Sample, now: float) -> tuple[State, list[Move]]:
    """One decision, with its moves as a list."""
    state, orders = law.decide(state, sample, now)
    return state, moves_of(orders)


def moves_of(orders: Iterable[Order]) -> list[Move]:
    """The moves among orders."""
    return [order for order in orders if isinstance(order, Move)]


def hold(law: Law, state: State, sample: Sample, start: float, seconds: float) -> tuple[State, list[Move]]:
    """Feed the same sample for `seconds`; the orders are not carried out."""
    moves: list[Move] = []
    for index in range(round(seconds / 0.25)):
        state, ordered = decide(law, state, sample, start + index * 0.25)
        moves += ordered
    return state, moves
