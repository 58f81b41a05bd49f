"""Whether released bytes arrive, as the law judges it."""

from dataclasses import replace

import pytest

from flexquant.server.controller.parameters import GIB, MIB
from flexquant.server.controller.sample import Move, Order, Trim
from flexquant.server.controller.state import State
from support.fed_law import FOOTPRINTS, RESERVES, law_with, sample_of

BOOKS = 80 * MIB
"""What the process holds beyond weights and pages: Python, HTTP."""


def _shrink(stays: float, after_trim: float | None = None, **changes: object) -> tuple[State, list[Order]]:
    """A shrink of which a share stays away, and another one after the heap was trimmed."""
    law = law_with(**changes)
    state, orders = State(), list[Order]()
    position, begun, trimmed = 0, RESERVES.low - MIB, False
    for index in range(20):
        now = index * 0.25
        share = after_trim if trimmed and after_trim is not None else stays
        released = FOOTPRINTS[0] - FOOTPRINTS[position]
        held = round(share * released)
        sample = replace(
            sample_of(begun + released - held, position), private_bytes=FOOTPRINTS[position] + BOOKS + held
        )
        state, given = law.decide(state, sample, now)
        orders += given
        for order in given:
            if isinstance(order, Move):
                position = order.position
            trimmed = trimmed or isinstance(order, Trim)
    return state, orders


def test_a_release_is_followed_by_one_trim_and_its_efficiency() -> None:
    state, orders = _shrink(0.0)
    assert [type(order) for order in orders] == [Move, Trim]
    assert state.efficiency == 1.0
    assert (state.retained, state.episode) == (0, None)


def test_what_the_trim_brings_back_is_not_missed() -> None:
    state, _ = _shrink(0.9, after_trim=0.0)
    assert state.efficiency == 1.0
    assert state.retained == 0


def test_what_stays_away_is_told_and_counted() -> None:
    state, orders = _shrink(0.6, remeasure_s=100.0)
    (move, *_) = orders
    assert isinstance(move, Move)
    released = FOOTPRINTS[0] - FOOTPRINTS[move.position]
    assert state.efficiency == pytest.approx(0.4, abs=0.01)
    assert state.retained == round(0.6 * released)
    assert state.last_decision is not None
    assert state.last_decision.what == "retained"
    assert "MiB have not arrived" in state.last_decision.why


def test_what_was_retained_and_goes_later_is_forgotten() -> None:
    state, _ = _shrink(0.6, remeasure_s=100.0)
    position = next(k for k, _ in enumerate(FOOTPRINTS) if state.last_decision and k == state.last_decision.to_position)
    half = state.retained // 2
    sample = replace(sample_of(3 * GIB, position), private_bytes=FOOTPRINTS[position] + BOOKS + half)
    state, _ = law_with().decide(state, sample, 100.0)
    assert state.retained == half
    sample = replace(sample, private_bytes=FOOTPRINTS[position] + BOOKS + 10 * half)  # other things grow
    state, _ = law_with().decide(state, sample, 100.25)
    assert state.retained == half


def test_small_releases_and_unknown_memory_are_not_judged() -> None:
    state, orders = _shrink(0.9, efficiency_bytes=64 * GIB)
    assert any(isinstance(order, Trim) for order in orders)
    assert (state.efficiency, state.retained) == (None, 0)
    law, state = law_with(), State()
    for index in range(20):
        state, _ = law.decide(state, sample_of(RESERVES.low - MIB if index < 2 else 3 * GIB, 50 if index else 0), index)
    assert (state.efficiency, state.episode) == (None, None)


def test_pages_that_fill_meanwhile_are_not_held_against_the_release() -> None:
    law, state = law_with(), State()
    position = 0
    for index in range(20):
        pages = index * 10 * MIB
        sample = replace(
            sample_of(RESERVES.low - MIB if not index else 3 * GIB, position, kv_bytes=pages),
            private_bytes=FOOTPRINTS[position] + BOOKS + pages,
        )
        state, orders = law.decide(state, sample, index * 0.25)
        position = next((order.position for order in orders if isinstance(order, Move)), position)
    assert state.efficiency == 1.0
