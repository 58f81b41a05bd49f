"""The control law and the daemon's own memory: KV pages, what is promised of them, what is only kept."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexquant.server.controller.admission import UNLIMITED, Admission
from flexquant.server.controller.parameters import GIB, MIB
from flexquant.server.controller.sample import DropReusable, Move
from flexquant.server.controller.state import Pin, State
from support.fed_law import FOOTPRINTS, PLENTY, RESERVES, decide, hold, law_with, moves_of, sample_of

LAST = len(FOOTPRINTS) - 1


def test_pages_that_nobody_has_go_before_weights() -> None:
    need = RESERVES.target - (RESERVES.low - MIB)
    for kept, steps in ((need, 0), (need - 1, 1), (MIB, LAST)):
        low = sample_of(RESERVES.low - MIB, 0, kv_bytes=kept, reusable_bytes=kept)
        _, orders = law_with().decide(State(), low, 0.0)
        assert orders[0] == DropReusable()
        assert 0 <= sum(move.position for move in moves_of(orders)) <= steps


def test_what_is_being_dropped_counts_as_given_back() -> None:
    law, kept = law_with(), 2 * GIB
    low = sample_of(RESERVES.low - MIB, 0, kv_bytes=kept, reusable_bytes=kept)
    state, orders = law.decide(State(), low, 0.0)
    assert orders == (DropReusable(),)
    for now in (0.25, 0.5, 0.75):  # no safe point has come yet
        state, orders = law.decide(state, low, now)
        assert orders == ()
    state, orders = law.decide(state, low, 1.25)  # it never came: once more
    assert orders == (DropReusable(),)


def test_promises_count_as_taken() -> None:
    law = law_with()
    assert decide(law, State(), sample_of(RESERVES.low, kv_promised=1), 0.0)[1] != []
    assert decide(law, State(), sample_of(RESERVES.low, kv_wanted=1), 0.0)[1] != []
    # A promise is no emergency: critical is what is missing now.
    (move,) = decide(law, State(), sample_of(RESERVES.low, kv_promised=2 * RESERVES.low), 0.0)[1]
    assert not move.urgent


def test_pages_that_fill_up_are_neither_a_fall_nor_room() -> None:
    """A page leaves the promise and takes memory: nothing has changed for anybody."""
    law, state = law_with(), State()
    promised = GIB
    for index in range(200):
        taken = min(index * 16 * MIB, promised)
        sample = sample_of(PLENTY - taken, 30, kv_bytes=taken, kv_promised=promised - taken)
        state, moves = decide(law, state, sample, index * 0.25)
        assert not moves or moves[0].position < 30
    assert {track.fall(50.0, 1.0) for track in state.tracks.values()} == {0.0}


def test_growth_leaves_what_is_promised() -> None:
    law = law_with()
    room = 3 * (FOOTPRINTS[29] - FOOTPRINTS[30])
    for promised, position in ((0, 27), (room // 3, 28), (room, None)):
        sample = sample_of(RESERVES.high + room + MIB, 30, kv_promised=promised)
        _, moves = hold(law, State(), sample, 0.0, 30.5)
        assert [move.position for move in moves[:1]] == ([] if position is None else [position])


def _admission(available: int, position: int = 0, state: State | None = None, **changes: object) -> Admission:
    law = law_with()
    sample = sample_of(available, position, **changes)
    state, _ = law.decide(State() if state is None else state, sample, 0.0)
    return law.admission(state, sample, 0.0)


def test_room_is_what_leaves_the_reserve() -> None:
    assert _admission(RESERVES.low + 5 * MIB) == Admission(5 * MIB, final=False, refusal=None)
    assert _admission(RESERVES.low - 5 * MIB) == Admission(0, final=False, refusal=None)
    assert _admission(RESERVES.low + 5 * MIB, kv_promised=2 * MIB).room == 3 * MIB


def test_what_is_wanted_does_not_take_its_own_room() -> None:
    assert _admission(RESERVES.low + 5 * MIB, kv_wanted=3 * MIB).room == 5 * MIB


def test_where_nothing_more_is_given_back_room_goes_down_to_the_critical_reserve_and_is_final() -> None:
    available = RESERVES.low + 5 * MIB
    at_end = Admission(available - RESERVES.critical, final=True, refusal=None)
    assert _admission(available, LAST) == at_end
    assert _admission(available, 20, State(pin=Pin(20, 0.0, None))) == at_end
    assert not _admission(available, LAST, kv_bytes=MIB, reusable_bytes=MIB).final
    assert not _admission(available, LAST - 1, target=LAST, moving=True).final


def test_without_any_source_the_cache_has_its_own_limit() -> None:
    assert _admission(0, memory=(), failed=("host",)).room == UNLIMITED


@settings(deadline=None)
@given(
    available=st.integers(0, 8 * GIB),
    position=st.integers(0, LAST),
    wanted=st.integers(1, 4 * GIB),
    reusable=st.integers(0, GIB),
)
def test_nobody_waits_for_ever(available: int, position: int, wanted: int, reusable: int) -> None:
    """While others stand still: what is wanted is admitted, or refused for good, after some shrinks."""
    law, state, now = law_with(), State(), 0.0
    for _ in range(40):
        sample = sample_of(available, position, kv_wanted=wanted, kv_bytes=reusable, reusable_bytes=reusable)
        state, orders = law.decide(state, sample, now)
        admission = law.admission(state, sample, now)
        if wanted <= admission.room or admission.final:
            return
        for order in orders:  # carried out at once
            if isinstance(order, Move):
                available += FOOTPRINTS[position] - FOOTPRINTS[order.position]
                position = order.position
            elif isinstance(order, DropReusable):
                available, reusable = available + reusable, 0
        now += 1.0
    raise AssertionError(f"still waiting: {replace(sample)}")


def test_the_next_look_is_sooner_where_less_is_left() -> None:
    law, fall = law_with(), law_with().parameters.fall_limit
    pauses = []
    for left in (0, fall // 5, fall // 2, fall, 5 * fall):
        sample = sample_of(RESERVES.low + left)
        state, _ = law.decide(State(), sample, 0.0)
        pauses.append(law.pause(state, sample, 0.0))
    assert pauses == pytest.approx([0.1, 0.2, 0.5, 1.0, 1.0])
    moving = sample_of(PLENTY, target=1, moving=True)
    assert law.pause(law.decide(State(), moving, 0.0)[0], moving, 0.0) == 0.1
