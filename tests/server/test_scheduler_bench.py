"""The scheduler in a fake engine under random arrivals: no idling, no starvation, fairness, short before long."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_batch_engine import FakeBatchEngine, Life, Machine, Request

MACHINES = st.builds(
    Machine,
    parallel=st.sampled_from([1, 2, 5]),
    max_queue=st.sampled_from([2, 1000, 1000]),
    patience=st.sampled_from([0.0, 0.5, 2.0]),
    slice_tokens=st.sampled_from([4, 32]),
    pages=st.sampled_from([8, 12, 40]),
)


def requests(prompts: st.SearchStrategy[int], choices: int = 3) -> st.SearchStrategy[list[Request]]:
    """Schedules that keep all machines busy for most of the time; any one prompt fits the memory of any machine."""
    one = st.builds(
        Request,
        at=st.integers(0, 400).map(float),
        prompt=prompts,
        answer=st.integers(1, 6),
        choices=st.just(1) | st.integers(1, choices),
        stays=st.none() | st.none() | st.integers(0, 300).map(float),
    )
    return st.lists(one, min_size=1, max_size=12)


PROMPTS = st.integers(1, 8) | st.integers(1, 100)


def _until_admitted(life: Life) -> float:
    """The time, in milliseconds, for which it could have been admitted and was not."""
    assert life.eligible is not None
    end = life.left if life.admitted is None else life.admitted
    assert end is not None
    return end - life.eligible


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_no_sequence_is_lost(machine: Machine, schedule: list[Request]) -> None:
    engine = FakeBatchEngine(machine, schedule)
    assert len(engine.lives) + engine.refused == sum(request.choices for request in schedule)
    for life in engine.lives:
        assert life.left is not None
        if life.ticket.expires is None or life.left < life.ticket.expires:
            assert (life.left_to_prefill, len(life.passes)) == (0, life.answer - 1)


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_the_engine_never_idles_while_work_can_be_done(machine: Machine, schedule: list[Request]) -> None:
    """Places stay free only when nobody waits for one or the first has no memory, and all that run are in the turn."""
    for cycle in FakeBatchEngine(machine, schedule).cycles:
        running = len(cycle.prefilling) + len(cycle.decoding)
        assert running <= machine.parallel
        if cycle.waiting and running < machine.parallel:
            first = min(cycle.waiting, key=lambda life: life.rank)
            assert first.pages(machine) > cycle.free_pages
        assert len(cycle.turn.decoding) == len(cycle.decoding)
        assert set(cycle.turn.decoding) == {life.ticket for life in cycle.decoding}
        assert (cycle.turn.prefilling is not None) == bool(cycle.prefilling)
        assert running or not (cycle.waiting or cycle.held)


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_no_choice_is_admitted_before_the_prompt_is_in(machine: Machine, schedule: list[Request]) -> None:
    for life in FakeBatchEngine(machine, schedule).lives:
        assert life.admitted is None or (life.eligible is not None and life.eligible <= life.admitted)


@settings(deadline=None, max_examples=300)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_every_sequence_is_admitted_after_no_more_than_the_work_ahead_of_it(
    machine: Machine, schedule: list[Request]
) -> None:
    """The bound on starvation: the sum of A(o) over the set O.

    O: those that run when this one could first be admitted, and those of lower rank. A(o): the time that o takes alone,
    its prompt plus a decode pass of one row for each further token.

    Why: while this one waits, a place is missing or memory is, so something runs, and the engine computes. What runs
    was admitted before, or ahead of this one by rank: it is in O. Each slice is part of the prompt of one o; each
    decode pass of r rows brings r of them one token further and costs no more than r passes of one row. O is finite
    whatever arrives: a lower rank means an arrival within `patience` per token of this one's prompt.
    """
    engine = FakeBatchEngine(machine, schedule)
    for life in engine.lives:
        if life.eligible is not None:
            gone = [o for o in engine.lives if o.left is not None and o.left <= life.eligible]
            ahead = [o for o in engine.lives if o.runs(life.eligible) or (o.rank < life.rank and o not in gone)]
            assert _until_admitted(life) <= sum(o.alone_ms(machine) for o in ahead)


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_nobody_is_overtaken_by_one_that_arrives_after_its_patience(machine: Machine, schedule: list[Request]) -> None:
    engine = FakeBatchEngine(machine, schedule)
    for life in engine.lives:
        if life.eligible is None:
            continue
        last = life.eligible + _until_admitted(life)
        for other in engine.lives:
            if other.admitted is None or not life.eligible <= other.admitted <= last or other is life:
                continue
            overtook = other.admitted < last if life.admitted is None else other.nth < life.nth
            if overtook and other.ticket.arrived > life.ticket.arrived:
                later = other.ticket.arrived - life.ticket.arrived
                assert later < machine.patience * life.ticket.prompt_tokens


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, schedule=requests(st.sampled_from([4, 40]), choices=1))
def test_equal_prompts_are_admitted_in_the_order_of_arrival(machine: Machine, schedule: list[Request]) -> None:
    lives = FakeBatchEngine(machine, schedule).lives  # in the order of arrival
    for earlier, later in combinations(lives, 2):
        if earlier.ticket.prompt_tokens == later.ticket.prompt_tokens and later.admitted is not None:
            if earlier.admitted is None:
                assert earlier.left is not None
                assert earlier.left <= later.admitted
            else:
                assert earlier.nth < later.nth


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_every_stream_is_in_every_decode_pass_from_its_first_token_to_its_last(
    machine: Machine, schedule: list[Request]
) -> None:
    """So streams that run at the same time get the same number of tokens meanwhile."""
    for life in FakeBatchEngine(machine, schedule).lives:
        assert life.passes == list(range(life.passes_before, life.passes_before + len(life.passes)))


@settings(deadline=None, max_examples=200)
@given(machine=MACHINES, schedule=requests(PROMPTS))
def test_an_admitted_prompt_waits_for_none_but_those_of_lower_rank(machine: Machine, schedule: list[Request]) -> None:
    """Its first token comes after its own prefill and theirs, each slice with one decode pass, the fullest."""
    engine = FakeBatchEngine(machine, schedule)
    for life in engine.lives:
        if life.admitted is not None and life.prefilled is not None:
            lower = [o for o in engine.lives if o.rank < life.rank]
            ahead = [o for o in lower if o.admitted is not None and o.admitted < life.prefilled]
            ahead = [o for o in ahead if o.prefilled is None or o.prefilled > life.admitted]
            own = sum(machine.prefill_ms(o.ticket.prompt_tokens) for o in [life, *ahead])
            assert life.prefilled - life.admitted <= own


def _first_token(life: Life) -> float:
    assert life.prefilled is not None
    return life.prefilled


SHORTS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 90)), min_size=1, max_size=6)
"""When they arrive, at least one cycle before 300 tokens can be in, and how many tokens they have."""


@settings(deadline=None, max_examples=200)
@given(long=st.integers(300, 1000), shorts=SHORTS, streams=st.integers(0, 4), slice_tokens=st.sampled_from([1, 16, 64]))
def test_a_short_prompt_does_not_wait_for_the_long_one_that_is_under_way(
    long: int, shorts: list[tuple[int, int]], streams: int, slice_tokens: int
) -> None:
    """Its first token comes after the cycle under way, the short prompts ahead of it and its own prefill."""
    machine = Machine(parallel=12, slice_tokens=slice_tokens)
    decoding = [Request(0.0, prompt=1, answer=20) for _ in range(streams)]
    arriving = [Request(float(at), prompt) for at, prompt in shorts]
    engine = FakeBatchEngine(machine, [*decoding, Request(0.0, long), *arriving])
    (under_way,) = (life for life in engine.lives if life.ticket.prompt_tokens == long)
    for life in engine.lives:
        if life is under_way:
            continue
        asked = life.ticket.arrived
        ahead = [o for o in engine.lives if o.rank <= life.rank and _first_token(o) > asked]
        own = sum(machine.prefill_ms(o.ticket.prompt_tokens) for o in ahead)
        assert _first_token(life) - asked <= machine.cycle_ms() + own
        assert _first_token(under_way) > _first_token(life)
