"""Promises of memory: never more than there is room for, none counted twice, nobody forgotten."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flexquant.server.api_error import ApiError
from flexquant.server.memory_gate import MemoryGate


def gate(room: int, *, final: bool = False) -> MemoryGate:
    made = MemoryGate()
    made.sampling()
    made.update(room, final=final)
    return made


def test_before_the_first_update_everything_is_let_in() -> None:
    assert MemoryGate().admit(1 << 60)


def test_what_was_promised_since_the_sample_takes_room() -> None:
    found = gate(100)
    assert found.admit(60)
    found.reserved()
    assert not found.admit(60)
    assert found.admit(40)


def test_a_sample_after_the_reservation_knows_of_it() -> None:
    found = gate(100)
    assert found.admit(60)
    found.reserved()
    found.sampling()
    found.update(40, final=False)
    assert found.admit(40)


def test_a_promise_between_a_sample_and_its_update_is_not_forgotten() -> None:
    found = gate(100)
    found.sampling()
    assert found.admit(60)
    found.reserved()
    found.update(100, final=False)
    assert not found.admit(60)


def test_a_promise_whose_pages_were_not_reserved_at_the_sample_is_not_forgotten() -> None:
    found = gate(100)
    assert found.admit(60)
    found.sampling()
    found.reserved()
    found.update(100, final=False)
    assert not found.admit(60)


def test_a_promise_that_came_to_nothing_takes_no_room() -> None:
    found = gate(100)
    assert found.admit(60)
    found.take_back(60)
    assert found.admit(100)


def test_who_waits_is_told_of_and_woken_until_it_is_gone() -> None:
    found, opened = gate(10), []
    found.on_open = lambda: opened.append(found.wanted)
    assert found.wanted == 0
    assert not found.admit(60)
    assert found.wanted == 60
    found.update(20, final=False)
    assert opened == [60]
    found.nobody_waits()
    assert found.wanted == 0
    found.update(20, final=False)
    assert opened == [60]


def test_what_needs_nothing_is_let_in_without_room() -> None:
    assert gate(-5, final=True).admit(0)


def test_what_does_not_fit_in_the_end_is_refused() -> None:
    found = gate(100 << 20, final=True)
    with pytest.raises(ApiError, match=r"150\.0 MiB of KV cache.*room for 100\.0 MiB") as refused:
        found.admit(150 << 20)
    assert (refused.value.status, refused.value.code) == (503, "memory_short")
    assert int(refused.value.headers["retry-after"]) >= 1
    assert found.wanted == 0


def test_no_new_work_while_memory_is_critical() -> None:
    found = gate(100)
    found.check()
    found.refuse("Memory is critical.")
    with pytest.raises(ApiError, match="Memory is critical") as refused:
        found.check()
    assert (refused.value.status, refused.value.code) == (503, "memory_critical")
    assert int(refused.value.headers["retry-after"]) >= 1
    found.refuse(None)
    found.check()


class Promising(RuleBasedStateMachine):
    """Any order of the two threads' steps, against what is truly promised."""

    @initialize()
    def start(self) -> None:
        self.gate = MemoryGate()
        self.opened = 0
        self.gate.on_open = self._open
        self.capacity = 100
        self.reserved: list[int] = []
        self.in_hand: int | None = None
        self.sampled: int | None = None
        """What a sample under way has read as promised."""
        self.limit: int | None = None
        """The most that may be promised in all, by the latest update."""
        self.room = 0
        self.final = False
        self.waits: int | None = None

    def _open(self) -> None:
        self.opened += 1

    @rule(capacity=st.integers(-20, 200))
    def others_change_the_room(self, capacity: int) -> None:
        self.capacity = capacity

    @rule()
    def sample(self) -> None:
        self.gate.sampling()
        self.sampled = None

    @rule()
    def read(self) -> None:
        """Memory is read after `sampling`, at any time."""
        self.sampled = sum(self.reserved)
        self.sampled_capacity = self.capacity

    @precondition(lambda self: self.sampled is not None)
    @rule(final=st.booleans())
    def update(self, final: bool) -> None:
        assert self.sampled is not None
        self.room, self.final, self.limit = self.sampled_capacity - self.sampled, final, self.sampled_capacity
        before = self.opened
        self.gate.update(self.room, final=final)
        assert self.opened - before == (self.waits is not None), "who waits is woken, and nobody else"

    @precondition(lambda self: self.in_hand is None)
    @rule(nbytes=st.integers(1, 120))
    def ask(self, nbytes: int) -> None:
        refused = self.limit is not None and self.final and nbytes > max(self.room, 0)
        self.waits = None
        try:
            admitted = self.gate.admit(nbytes)
        except ApiError:
            assert refused, "it fits, or might still"
            return
        assert not refused
        if not admitted:
            self.waits = nbytes
            assert self.limit is not None
            return
        self.in_hand = nbytes
        assert self.limit is None or sum(self.reserved) + nbytes <= self.limit, "more was promised than there is"

    @precondition(lambda self: self.in_hand is not None)
    @rule(found=st.booleans())
    def reserve(self, found: bool) -> None:
        assert self.in_hand is not None
        if found:
            self.reserved.append(self.in_hand)
            self.gate.reserved()
        else:
            self.gate.take_back(self.in_hand)
        self.in_hand = None

    @precondition(lambda self: self.reserved)
    @rule()
    def release(self) -> None:
        self.reserved.pop()

    @rule()
    def give_up(self) -> None:
        self.gate.nobody_waits()
        self.waits = None

    @precondition(lambda self: self.in_hand is None)
    @rule()
    def settle(self) -> None:
        """When nothing happens between, whatever fits is let in."""
        self.gate.sampling()
        room = max(self.capacity - sum(self.reserved), 0)
        self.gate.update(self.capacity - sum(self.reserved), final=False)
        self.room, self.final, self.limit, self.sampled = room, False, self.capacity, None
        self.ask(max(room, 1))
        assert (self.in_hand is not None) == (room >= 1)

    @invariant()
    def the_first_who_waits_is_told_of(self) -> None:
        if hasattr(self, "gate"):
            assert self.gate.wanted == (self.waits or 0)


TestPromising = Promising.TestCase
TestPromising.settings = settings(deadline=None, max_examples=200, stateful_step_count=30)
