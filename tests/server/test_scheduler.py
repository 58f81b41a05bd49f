"""The policy of continuous batching: its rules by example, and its books whatever the order of calls."""

import weakref
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flexquant.server.scheduler import QueueFull, Scheduler, Ticket, Turn


def scheduler(parallel: int = 8, max_queue: int = 8, patience: float = 1.0) -> Scheduler:
    """With a patience of one second per token, so that ranks are read off: arrival plus length."""
    return Scheduler(parallel=parallel, max_queue=max_queue, patience=patience)


def plenty(ticket: Ticket) -> bool:
    return True


def memory(tokens: int) -> Callable[[Ticket], bool]:
    """Room for the prompts of some tickets, `tokens` altogether."""
    left = tokens

    def reserve(ticket: Ticket) -> bool:
        nonlocal left
        if ticket.prompt_tokens > left:
            return False
        left -= ticket.prompt_tokens
        return True

    return reserve


def running(scheduler: Scheduler, *tickets: Ticket) -> None:
    """Have these admitted."""
    scheduler.submit(tickets)
    assert set(scheduler.admit(plenty)) == set(tickets)


# Who is admitted ------------------------------------------------------------------------------------------------


def test_equal_prompts_are_admitted_in_the_order_of_arrival() -> None:
    plan = scheduler(parallel=2)
    first, second, third = (Ticket(5, float(at)) for at in range(3))
    for ticket in (third, first, second):
        plan.submit([ticket])
    assert plan.admit(plenty) == [first, second]
    assert (plan.running, plan.waiting) == (2, 1)


def test_equal_ranks_are_admitted_in_the_order_of_submission() -> None:
    plan = scheduler()
    tickets = [Ticket(3, 1.0), Ticket(2, 2.0), Ticket(4, 0.0), Ticket(3, 1.0)]
    plan.submit(tickets)
    assert plan.admit(plenty) == tickets


def test_a_short_prompt_overtakes_a_long_one_only_within_its_patience() -> None:
    plan = scheduler(parallel=3)
    long, soon, late = Ticket(100, 0.0), Ticket(1, 98.0), Ticket(1, 99.5)
    plan.submit([late, long, soon])
    assert plan.admit(plenty) == [soon, long, late]


def test_without_patience_the_first_to_come_is_the_first_served() -> None:
    plan = scheduler(patience=0.0)
    long, short = Ticket(10**6, 0.0), Ticket(1, 0.001)
    plan.submit([short, long])
    assert plan.admit(plenty) == [long, short]


def test_a_place_is_taken_when_one_leaves() -> None:
    plan = scheduler(parallel=1)
    first, second = Ticket(1, 0.0), Ticket(1, 1.0)
    plan.submit([first, second])
    assert plan.admit(plenty) == [first]
    plan.prefilled(first)
    assert plan.admit(plenty) == []
    plan.leave(first)
    assert plan.admit(plenty) == [second]


def test_nobody_goes_ahead_of_one_that_waits_for_memory() -> None:
    plan = scheduler()
    small, large, next_small = Ticket(1, 0.0), Ticket(10, 0.0), Ticket(1, 20.0)
    plan.submit([small, large, next_small])
    assert plan.admit(memory(10)) == [small]
    assert plan.admit(memory(9)) == []
    assert plan.admit(memory(11)) == [large, next_small]


# Siblings -------------------------------------------------------------------------------------------------------


def test_a_sibling_waits_until_the_prompt_is_in_the_cache_and_others_pass_it() -> None:
    plan = scheduler()
    first = Ticket(5, 0.0)
    sibling, other = Ticket(1, 0.0, after=first), Ticket(50, 0.0)
    plan.submit([first, sibling, other])
    assert plan.admit(plenty) == [first, other]
    assert plan.admit(plenty) == []
    plan.prefilled(first)
    assert plan.admit(plenty) == [sibling]


def test_a_sibling_that_was_held_back_keeps_its_rank() -> None:
    plan = scheduler(parallel=2)
    first = Ticket(5, 0.0)
    sibling, earlier, later = Ticket(5, 0.0, after=first), Ticket(4, 0.5), Ticket(5, 0.5)
    plan.submit([first, sibling])
    assert plan.admit(plenty) == [first]
    plan.submit([later, earlier])
    plan.prefilled(first)
    assert plan.admit(plenty) == [earlier]
    plan.leave(first)
    assert plan.admit(plenty) == [sibling]


@pytest.mark.parametrize("admitted", [False, True])
def test_a_sibling_that_has_left_holds_nobody(admitted: bool) -> None:
    plan = scheduler()
    first = Ticket(5, 0.0)
    sibling = Ticket(5, 0.0, after=first)
    plan.submit([first, sibling])
    if admitted:
        plan.admit(plenty)
    plan.leave(first)
    assert plan.admit(plenty) == [sibling]


def test_a_sibling_whose_prompt_is_in_or_who_has_not_come_holds_nobody() -> None:
    plan = scheduler()
    first, later = Ticket(5, 0.0), Ticket(5, 0.0)
    running(plan, first)
    plan.prefilled(first)
    running(plan, Ticket(5, 0.0, after=first), Ticket(5, 0.0, after=Ticket(5, 0.0)))
    running(plan, Ticket(5, 0.0, after=later), later)


def test_a_held_sibling_may_leave() -> None:
    plan = scheduler()
    first = Ticket(5, 0.0)
    sibling = Ticket(5, 0.0, after=first)
    plan.submit([first, sibling])
    plan.leave(sibling)
    assert plan.admit(plenty) == [first]
    plan.prefilled(first)
    assert (plan.admit(plenty), plan.waiting, plan.running) == ([], 0, 1)


# Turns ----------------------------------------------------------------------------------------------------------


def test_all_whose_prompts_are_in_decode_in_every_turn() -> None:
    plan = scheduler()
    tickets = [Ticket(5, float(at)) for at in range(4)]
    running(plan, *tickets)
    for ticket in tickets[:3]:
        plan.prefilled(ticket)
    assert plan.turn() == plan.turn() == Turn(tuple(tickets[:3]), tickets[3])


def test_a_short_prompt_goes_ahead_of_a_long_one_that_is_under_way_within_its_patience() -> None:
    plan = scheduler()
    long, short, late = Ticket(100, 0.0), Ticket(5, 90.0), Ticket(5, 96.0)
    running(plan, long)
    assert plan.turn().prefilling is long
    running(plan, short, late)
    assert plan.turn().prefilling is short
    plan.prefilled(short)
    assert plan.turn() == Turn((short,), long)


def test_a_prompt_that_is_in_after_its_ticket_has_left_changes_nothing() -> None:
    plan = scheduler()
    ticket = Ticket(5, 0.0)
    running(plan, ticket)
    plan.leave(ticket)
    plan.prefilled(ticket)
    assert (plan.turn(), plan.running) == (Turn((), None), 0)


# The queue ------------------------------------------------------------------------------------------------------


def test_the_free_places_and_the_queue_take_tickets_all_or_none() -> None:
    plan = scheduler(parallel=2, max_queue=1)
    first, *others = (Ticket(1, 0.0) for _ in range(4))
    plan.submit([first])
    with pytest.raises(QueueFull, match="no more than 1 sequences may wait") as full:
        plan.submit(others)
    assert (full.value.limit, plan.waiting) == (1, 1)
    plan.submit(others[:2])
    plan.admit(plenty)
    with pytest.raises(QueueFull):
        plan.submit(others[2:])
    plan.leave(first)
    plan.submit(others[2:])
    assert (plan.waiting, plan.running) == (2, 1)


def test_a_ticket_is_submitted_once() -> None:
    plan = scheduler()
    ticket, other = Ticket(1, 0.0), Ticket(1, 0.0)
    with pytest.raises(ValueError, match="submitted once"):
        plan.submit([ticket, ticket])
    running(plan, ticket)
    with pytest.raises(ValueError, match="submitted once"):
        plan.submit([other, ticket])
    assert (plan.waiting, plan.running) == (0, 1)


def test_tickets_expire_at_their_time_wherever_they_are_and_do_not_leave() -> None:
    plan = scheduler(parallel=2)
    decoding, prefilling, waiting, never = (Ticket(1, 0.0, expires) for expires in (3.0, 2.0, 1.0, None))
    running(plan, decoding, prefilling)
    plan.prefilled(decoding)
    plan.submit([waiting, never])
    assert plan.expired(0.5) == []
    assert plan.expired(2.0) == plan.expired(2.5) == [waiting, prefilling]
    assert plan.expired(3.0) == [waiting, prefilling, decoding]
    plan.leave(prefilling)
    assert plan.expired(1e9) == [waiting, decoding]


class Watched(Ticket):
    """A ticket that can be watched."""


@pytest.mark.parametrize("stage", ["waiting", "held", "prefilling", "decoding"])
def test_a_ticket_that_has_left_is_not_kept_alive(stage: str) -> None:
    plan = scheduler()
    first = Ticket(2, 0.0)
    running(plan, first)
    ticket = Watched(1, 0.0, expires=1.0, after=first if stage == "held" else None)
    plan.submit([Ticket(1, 0.0), ticket, Ticket(1, 0.0)])
    if stage in ("prefilling", "decoding"):
        plan.admit(plenty)
    if stage == "decoding":
        plan.prefilled(ticket)
    plan.leave(ticket)
    watch = weakref.ref(ticket)
    del ticket
    assert watch() is None


# Any order of calls ---------------------------------------------------------------------------------------------

_TIMES = st.integers(0, 20).map(float)


class Books(RuleBasedStateMachine):
    """Any order of calls: a ticket is in one place, as plain lists tell it, and none is lost."""

    @initialize(parallel=st.integers(1, 4), max_queue=st.integers(0, 6), patience=st.sampled_from([0.0, 1.0, 2.5]))
    def start(self, parallel: int, max_queue: int, patience: float) -> None:
        self.parallel, self.max_queue, self.patience = parallel, max_queue, patience
        self.plan = Scheduler(parallel=parallel, max_queue=max_queue, patience=patience)
        self.all: list[Ticket] = []  # in the order of submission
        self.waiting: list[Ticket] = []
        self.prefilling: list[Ticket] = []
        self.decoding: list[Ticket] = []

    def rank(self, ticket: Ticket) -> tuple[float, int]:
        return ticket.arrived + self.patience * ticket.prompt_tokens, self.all.index(ticket)

    @rule(data=st.data(), lengths=st.lists(st.integers(1, 9), max_size=4), arrived=_TIMES, expires=st.none() | _TIMES)
    def submit(self, data: st.DataObject, lengths: list[int], arrived: float, expires: float | None) -> None:
        tickets: list[Ticket] = []
        for tokens in lengths:
            after = data.draw(st.none() | st.sampled_from(tickets + self.all[-5:])) if tickets or self.all else None
            tickets.append(Ticket(tokens, arrived, expires, after))
        beyond = len(self.waiting) + len(tickets) - (self.parallel - len(self.prefilling) - len(self.decoding))
        if beyond > self.max_queue:
            with pytest.raises(QueueFull):
                self.plan.submit(tickets)
        else:
            self.plan.submit(tickets)
            self.all += tickets
            self.waiting += tickets

    @rule(tokens=st.integers(0, 40))
    def admit(self, tokens: int) -> None:
        expected: list[Ticket] = []
        reserve = memory(tokens)
        for ticket in sorted(self.waiting, key=self.rank):
            if ticket.after in self.waiting or ticket.after in self.prefilling:
                continue
            full = len(self.prefilling) + len(self.decoding) + len(expected) == self.parallel
            if full or not reserve(ticket):
                break
            expected.append(ticket)
        assert self.plan.admit(memory(tokens)) == expected
        self.waiting = [ticket for ticket in self.waiting if ticket not in expected]
        self.prefilling += expected

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.all))
        self.plan.leave(ticket)
        for stage in (self.waiting, self.prefilling, self.decoding):
            if ticket in stage:
                stage.remove(ticket)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def prefilled(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.prefilling or self.all))
        self.plan.prefilled(ticket)
        if ticket in self.prefilling:
            self.prefilling.remove(ticket)
            self.decoding.append(ticket)

    @rule(now=_TIMES)
    def expired(self, now: float) -> None:
        here = sorted(self.waiting + self.prefilling + self.decoding, key=lambda ticket: self.all.index(ticket))
        passed = [(ticket.expires, ticket) for ticket in here if ticket.expires is not None and ticket.expires <= now]
        assert self.plan.expired(now) == [ticket for _, ticket in sorted(passed, key=lambda pair: pair[0])]

    @invariant()
    def books_are_exact(self) -> None:
        assert self.plan.waiting == len(self.waiting)
        assert self.plan.running == len(self.prefilling) + len(self.decoding) <= self.parallel
        first = min(self.prefilling, key=self.rank, default=None)
        assert self.plan.turn() == Turn(tuple(self.decoding), first)

    def teardown(self) -> None:
        """Whoever is still here gets a place and is done."""
        left = set(self.waiting + self.prefilling + self.decoding) if hasattr(self, "plan") else set()
        while left:
            self.plan.admit(plenty)
            turn = self.plan.turn()
            assert turn.decoding or turn.prefilling
            if turn.prefilling:
                self.plan.prefilled(turn.prefilling)
            for ticket in turn.decoding:
                self.plan.leave(ticket)
                left.remove(ticket)


TestBooks = Books.TestCase
TestBooks.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
